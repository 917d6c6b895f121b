"""Delivery of messages by e-mail. A repeat has the same Message-ID, so that the receiver can recognise it."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from typing import Final

import msgspec

from pipeline.config import Email, read_secret
from pipeline.outbox.address import Address, RefusedError, networks, resolve
from pipeline.outbox.deadline import Deadline
from pipeline.outbox.sent import Sent
from pipeline.outbox.signature import message_id
from rating.errors import ConfigError
from schemas.actions import ActionMessage, Notify

_PERMANENT: Final = 500
_SUBJECT: Final = "{0.rule}: {1} of SIM {0.iccid}"


class MailSender:
    """Sends through one mail server, with one connection per message."""

    def __init__(self, email: Email) -> None:
        """Prepare the mail server. Raises ConfigError if the password or the certificates cannot be read."""
        self._email = email
        self._password = read_secret(email.password_env, email.password_file, "email")
        self._networks = networks(email.allow)
        try:
            self._context = ssl.create_default_context(cafile=email.ca_file)
        except OSError as error:
            raise ConfigError(f"email: ca_file: found {email.ca_file}, which cannot be read: {error}") from error

    def send(self, action_id: str, body: bytes) -> Sent:
        """Send the message to the addresses of the action or, if it has none, to those of the configuration."""
        message = msgspec.json.decode(body, type=ActionMessage)
        to = [address for address in _addressees(message) if "@" in address] or list(self._email.to)
        if not to:
            return Sent("dead", "the action names no mail address, and [outbox.email] has no `to`")
        try:
            mail = compose(message, body, self._email.sender, to)
        except (ValueError, UnicodeError) as error:
            return Sent("dead", f"cannot be written as a mail: {error}")
        return self._sent(mail, to)

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _sent(self, mail: EmailMessage, to: list[str]) -> Sent:
        email = self._email
        port = email.port or (465 if email.security == "tls" else 587)
        try:
            found = resolve(email.host, port, self._networks)
        except RefusedError as refused:
            return Sent("dead", str(refused))
        except OSError as error:
            return Sent("again", f"{email.host}: the name cannot be resolved: {error}")
        said: Sent | None = None
        for address in found.addresses:
            # An error before the mail itself concerns the server or its set-up, which somebody may repair. Try again.
            server = self._server()
            with Deadline(email.timeout_s, partial(getattr, server, "sock")) as deadline:
                try:
                    self._connect(server, str(address), port)
                except (OSError, smtplib.SMTPException) as error:
                    said = self._failed(address, port, error, deadline)
                    continue
                try:
                    return _handed_over(server, mail, email.sender, to)
                except (OSError, smtplib.SMTPException) as error:
                    return self._failed(address, port, error, deadline)
                finally:
                    with contextlib.suppress(OSError, smtplib.SMTPException):
                        server.quit()
                    server.close()
        return said or Sent("again", f"{email.host}: the name has no address")

    def _failed(self, address: Address, port: int, error: Exception, deadline: Deadline) -> Sent:
        said = f"not done within {self._email.timeout_s} s" if deadline.passed else str(error) or type(error).__name__
        return Sent("again", f"{self._email.host}:{port} at {address}: {said}")

    def _server(self) -> smtplib.SMTP:
        """Return a client that is not connected yet."""
        if self._email.security == "tls":
            return smtplib.SMTP_SSL(timeout=self._email.timeout_s, context=self._context)
        return smtplib.SMTP(timeout=self._email.timeout_s)

    def _connect(self, server: smtplib.SMTP, address: str, port: int) -> None:
        """Connect to the checked address, encrypt and log in as configured. TLS verifies the name of the server."""
        email = self._email
        try:
            server._host = email.host  # type: ignore[attr-defined]  # TLS needs the name; connect() gets the address
            server.connect(address, port)
            if email.security == "starttls":
                server.starttls(context=self._context)
            if email.user is not None and self._password is not None:
                server.login(email.user, self._password)
        except BaseException:
            server.close()
            raise


def _handed_over(server: smtplib.SMTP, mail: EmailMessage, sender: str, to: list[str]) -> Sent:
    try:
        refused = server.send_message(mail, sender, to)
    except smtplib.SMTPRecipientsRefused as error:
        return _refused({name: (code, _text(said)) for name, (code, said) in error.recipients.items()})
    except smtplib.SMTPNotSupportedError as error:
        return Sent("dead", str(error))
    except smtplib.SMTPResponseException as error:
        said = f"answered {error.smtp_code} {_text(error.smtp_error)}"
        return Sent("dead" if error.smtp_code >= _PERMANENT else "again", said)
    if not refused:
        return Sent("delivered")
    told = _refused({name: (code, _text(said)) for name, (code, said) in refused.items()})
    # Some recipients got the mail. Repeat it only if another recipient was refused temporarily.
    return told if told.outcome == "again" else Sent("delivered", told.error)


def _refused(recipients: dict[str, tuple[int, str]]) -> Sent:
    said = "; ".join(f"{name}: {code} {text}" for name, (code, text) in recipients.items())
    permanent = all(code >= _PERMANENT for code, _ in recipients.values())
    return Sent("dead" if permanent else "again", f"refused {said}")


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said


def _addressees(message: ActionMessage) -> tuple[str, ...]:
    return message.parameters.to if isinstance(message, Notify) else ()


def compose(message: ActionMessage, body: bytes, sender: str, to: list[str]) -> EmailMessage:
    """Return the mail of a message: its text (of a notify), or the message itself. action.json is attached.

    Message-ID and Date come from the action, so a repeat is the same mail. Raises ValueError if a text or an address
    cannot be written in a mail.
    """
    mail = EmailMessage()
    if isinstance(message, Notify):
        subject, text = message.parameters.subject, message.parameters.text
    else:
        action = str(msgspec.to_builtins(message)["action"]).replace("_", " ")
        subject = _SUBJECT.format(message, action)
        text = msgspec.json.format(body, indent=2).decode()
    mail["Subject"] = " ".join(subject.split())  # a line break would start another header
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Message-ID"] = f"<{message_id(message.id)}@{sender.rpartition('@')[2]}>"
    mail["Date"] = format_datetime(message.fired_at)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text)
    mail.add_attachment(body, maintype="application", subtype="json", filename="action.json")
    return mail
