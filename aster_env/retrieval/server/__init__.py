"""A retrieval service: every published wire form in one application, over any retriever."""
