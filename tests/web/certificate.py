"""A certificate of a name, and the two sides' contexts."""

from __future__ import annotations

import datetime
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def contexts(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext, list[str]]:
    """Return the server's context, the client's, and the list of names that clients will ask for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    public = certificate.public_bytes(encoding)
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.pem"
        path.write_bytes(public + private)
        server.load_cert_chain(path)
    server.sni_callback = lambda _socket, asked, _context: names.append(asked)
    return server, ssl.create_default_context(cadata=public.decode()), names
