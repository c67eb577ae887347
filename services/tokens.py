"""Tokens of the service: `python -m services.tokens --help`. Only their hashes are kept."""

import secrets
import sys
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, SettingsConfigDict

from fcn_core.registry.version import one_line
from services._access import Token, Tokens, digest_of

SIGN = "fcn_"
"""How tokens begin, so that those who look for secrets in files find them."""


class TokensCommand(BaseSettings):
    """Add a token to a file of tokens, which is made if it is not there; take one out; or list them.

    A new token is printed once and kept nowhere. Running services see changes within seconds.
    """

    model_config = SettingsConfigDict(env_prefix="FCN_TOKENS_", cli_exit_on_error=False, cli_implicit_flags=True)

    action: CliPositionalArg[Literal["add", "remove", "list"]] = Field(description="what to do")
    file: CliPositionalArg[str] = Field(description="file or URL, the setting FCN_SERVE_TOKENS of the service")
    name: CliPositionalArg[str] = Field("", description="whose token")
    days: int = Field(90, ge=1, le=3650, description="until it expires")
    act: bool = Field(False, description="whether it may start, stop and promote in the experiment service")


def main() -> None:
    """Carry out a command about tokens, or leave with one line and exit code 2."""
    try:
        command = CliApp.run(TokensCommand)
        tokens = _read(command)
        if command.action == "list":
            lines = [_line(token) for token in tokens.tokens]
        else:
            lines = [_add(command, tokens)] if command.action == "add" else [_remove(command, tokens)]
    except (ValidationError, ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    print("\n".join(lines))


def _line(token: Token) -> str:
    return f"{token.name}  until {token.expires:%Y-%m-%d}{', may act' if token.may_act else ''}"


def _read(command: TokensCommand) -> Tokens:
    try:
        return Tokens.read(command.file)
    except FileNotFoundError:
        if command.action == "add":
            return Tokens(tokens=())
        raise


def _add(command: TokensCommand, tokens: Tokens) -> str:
    if not command.name or any(token.name == command.name for token in tokens.tokens):
        raise ValueError(f"there is a token {command.name!r} already" if command.name else "say whose token it is")
    secret = SIGN + secrets.token_urlsafe(32)
    expires = datetime.now(UTC) + timedelta(days=command.days)
    added = Token(name=command.name, sha256=digest_of(secret), expires=expires, may_act=command.act)
    Tokens(tokens=(*tokens.tokens, added)).write(command.file)
    return secret


def _remove(command: TokensCommand, tokens: Tokens) -> str:
    left = tuple(token for token in tokens.tokens if token.name != command.name)
    if len(left) == len(tokens.tokens):
        raise ValueError(f"there is no token {command.name!r}")
    Tokens(tokens=left).write(command.file)
    return f"removed {command.name}"


if __name__ == "__main__":
    main()
