"""TLS for a listener: certificate, key, and the authority that clients' certificates must come from."""

from __future__ import annotations

import ssl
from pathlib import Path

from octavo.config import ServerConfig
from octavo.errors import StartupError


def tls_files(server: ServerConfig) -> tuple[Path, ...]:
    """The files that a server's TLS is made of; none when it speaks plain HTTP."""
    names = (server.ssl_certfile, server.ssl_keyfile)
    return tuple(Path(name) for name in names if name)


def tls_context(server: ServerConfig) -> ssl.SSLContext | None:
    """The context that connections are encrypted with, from TLS 1.2 on; None without a certificate."""
    if server.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_ca_certs"):
            if getattr(server, name) is not None:
                raise StartupError(f"{name} needs a certificate, too: give --ssl-certfile", name)
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, server)
    if server.ssl_ca_certs is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(server.ssl_ca_certs)
        except (OSError, ssl.SSLError) as error:
            raise StartupError(f"cannot use {server.ssl_ca_certs}: {reason(error)}", "ssl_ca_certs") from None
    return context


def load_certificate(context: ssl.SSLContext, server: ServerConfig) -> None:
    """Use the certificate as it is in its files now, for new connections; StartupError when it cannot be used."""
    assert server.ssl_certfile is not None
    try:
        # Without a password here, OpenSSL would ask the terminal for the one of an encrypted key.
        context.load_cert_chain(server.ssl_certfile, server.ssl_keyfile, password="")
    except (OSError, ssl.SSLError) as error:
        files = " with ".join(str(path) for path in tls_files(server))
        raise StartupError(f"cannot use {files}: {reason(error)}", "ssl_certfile") from None


def reason(error: Exception) -> str:
    """What OpenSSL or the system said, in a few words."""
    if isinstance(error, ssl.SSLError):
        return {"KEY_VALUES_MISMATCH": "the key does not belong to the certificate"}.get(
            error.reason or "", (error.reason or "it is no PEM file").replace("_", " ").lower()
        )
    return getattr(error, "strerror", None) or str(error)
