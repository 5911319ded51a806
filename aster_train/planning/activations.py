"""What the update keeps between the forward and the backward pass.

The layers are those of Llama, Mistral, Qwen2 and Qwen3 in transformers with ``sdpa`` attention; the loss is TRL's fused
head, which keeps log-probabilities and no logits. H is the hidden size, F the MLP's width, Q the width of all queries,
K that of all keys, T the context.
"""

from __future__ import annotations

from aster_train.planning.memory import TILE, Line, Term, Training, line
from aster_train.planning.model import Shape


def layer_token(shape: Shape, training: Training) -> tuple[int, str]:
    """Return the bytes that autograd saves for one token in one layer, and how they add up.

    A norm keeps its input in fp32 and, if it is trained, what it normalised; a linear layer keeps its input, which
    autocast casts for each of q, k, v, gate and up anew; attention keeps q, k, v, its output and a log-sum of each
    head; the MLP keeps four rows of F. With a mask, keys and values are repeated for every query head
    (``use_gqa_in_sdpa``), and the mask is turned into numbers of the products' type in each layer.
    """
    H, F, Q, K = shape.hidden, shape.feedforward, shape.queries, shape.keys  # noqa: N806 (the formula's letters)
    mode, c, full = training.mode, training.product, not training.lora
    inputs = {"bf16": 4, "autocast": 10, "fp32": 8}[mode]
    hidden = 2 * (4 + full * (2 if mode == "bf16" else 4)) + inputs
    normed = (4 + full * c if shape.qk_norm else 0) * (Q + K)
    repeated = Q if training.padded else K
    small = 8 + 4 * shape.heads + (4 * (shape.heads + shape.kv_heads) if shape.qk_norm else 0)
    small += 7 * training.lora * c
    mask = c * training.context if training.padded else 0
    value = hidden * H + normed + 2 * c * (Q + repeated) + 4 * c * F + mask + small
    text = f"{hidden}·{H} (norms, inputs)"
    text += f" + {4 + full * c}·({Q}+{K}) (q and k norms)" if shape.qk_norm else ""
    text += f" + {2 * c}·({Q}+{repeated}) (attention) + {4 * c}·{F} (MLP) + {small} (statistics)"
    text += f" + {c}·{training.context} (mask)" if mask else ""
    return value, text


def head_token(shape: Shape, training: Training) -> int:
    """Return the bytes that the last norm and the fused head save for one token."""
    norm = 4 + (0 if training.lora else 2 if training.mode == "bf16" else 4)
    return (norm + training.weight) * shape.hidden + 4 + 8 + 18


def copies(shape: Shape, training: Training, layers: int) -> tuple[Term, ...]:
    """Return autocast's bf16 copies of the linear weights of ``layers`` layers."""
    if training.mode != "autocast":
        return ()
    return (Term(((shape.linear // shape.layers, "linear weights of a layer"), (layers, "layers"), (2, "B"))),)


def kept(shape: Shape, training: Training) -> list[Line]:
    """What is kept of the layers from the forward pass to the backward pass of a micro-batch."""
    token, text = layer_token(shape, training)
    rows = (training.micro_batch, "episodes"), (training.context, "tokens")
    if training.checkpointing:
        each = line("each layer's input", *rows, (shape.layers, "layers"), (shape.hidden, "H"), (training.weight, "B"))
    else:
        terms = Term((*rows, (shape.layers, "layers"), (token, "B"))), *copies(shape, training, shape.layers)
        each = Line("activations of all layers", terms, f"a token in a layer: {text}")
    if not training.padded:
        return [each]
    pairs = (training.micro_batch, "episodes"), (training.context, "tokens"), (training.context, "tokens")
    return [each, line("mask of attention", *pairs, (1, "B"))]


def saved(shape: Shape, training: Training) -> int:
    """Return the bytes that autograd saves: those of the layers, the last norm and the loss, and no common mask."""
    return kept(shape, training)[0].bytes + training.tokens * head_token(shape, training)


def working(shape: Shape, training: Training) -> list[Line]:
    """What comes on top of ``kept`` for a while; only the largest counts, for they follow each other.

    The last norm and the loss are gone when a layer's backward pass begins. Checkpointing computes a layer's
    activations again before it; the gradients that flow back through the MLP are three rows. Autocast's cache holds
    bf16 copies of all trained linear weights till the forward pass ends. The head's backward pass holds a tile of
    logits, and the gradients of its input and weight in fp32.
    """
    token, text = layer_token(shape, training)
    rows = (training.micro_batch, "episodes"), (training.context, "tokens")
    # Adapters are fp32 under autocast, and so are their inputs and the gradients of these.
    mlp = 2 * training.product + (6 if training.lora and training.mode == "autocast" else 0)
    stream = training.product + training.weight
    flow = mlp * shape.feedforward + stream * shape.hidden
    note = f"gradients: {mlp}·{shape.feedforward} + {stream}·{shape.hidden}"
    backward = [Term((*rows, (flow, "B of gradients")))]
    if training.checkpointing:
        backward = [Term((*rows, (token, "B"))), *copies(shape, training, 1), *backward]
        note = f"a token: {text}; {note}"
    loss = Term((*rows, (head_token(shape, training), "B of norm and loss"))), _tile(training)
    inputs = Term((*rows, (shape.hidden, "H"), (4, "B")))
    weight = Term(((shape.vocabulary, "words"), (shape.hidden, "H"), (4 + (training.weight == 2) * 2, "B")))
    head = (*loss, inputs) if training.lora else (*loss, inputs, weight)
    note_of_head = "a tile of logits, gradients of its input and weight"
    made = [
        Line("one layer's backward pass", tuple(backward), note),
        Line("the head's backward pass", head, note_of_head, measured=False),
    ]
    if training.checkpointing and training.mode == "autocast" and not training.lora:
        terms = *copies(shape, training, shape.layers), *loss
        made.append(Line("autocast's copies of the weights", terms, "and a tile of logits"))
    return made


def _tile(training: Training) -> Term:
    return Term(((min(training.tokens, TILE[0]), "tokens"), (TILE[1], "logits"), (training.product, "B")))


def batch(training: Training) -> Line:
    """The micro-batch itself: ids, masks, log-probabilities, ratios and advantages, 8 B each at most."""
    return line("ids, masks, log-probabilities", (training.tokens, "tokens"), (64, "B"), measured=False)
