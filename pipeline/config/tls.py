"""TLS context for Kafka connections, from [kafka]."""

from __future__ import annotations

import ssl

from pipeline.config.kafka import Kafka
from pipeline.config.load import read_secret
from rating.errors import ConfigError


def ssl_context(kafka: Kafka) -> ssl.SSLContext:
    """Return a context that verifies certificate and name of the broker, and presents the client certificate if any.

    Raises ConfigError if a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[kafka].ca_file: {kafka.ca_file}: cannot be used: {error}; expected certificates in PEM"
        ) from error
    if kafka.cert_file is not None:
        password = read_secret(kafka.key_password_env, kafka.key_password_file, "the key of [kafka]")
        try:
            # Always give a password, because OpenSSL would ask at the terminal for that of an encrypted key.
            context.load_cert_chain(kafka.cert_file, kafka.key_file, lambda: password or "")
        except (OSError, ssl.SSLError) as error:
            key = f" with {kafka.key_file}" if kafka.key_file is not None else ""
            raise ConfigError(
                f"[kafka].cert_file: {kafka.cert_file}{key}: cannot be used: {error}; expected a certificate "
                "and its key in PEM, and where the key is encrypted key_password_env or key_password_file"
            ) from error
    return context
