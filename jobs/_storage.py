"""Looking over a storage, and tidying up what crashes left."""

import sys
import time
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from jobs._cli import FAILED, Settings, exit_codes, read
from jobs._console import Console
from jobs._storage_check import Finding, look_over


class StorageCommand(Settings):
    """Check a storage, or repair it: remove what crashes left, which no reader trusts. A whole checkpoint always stays.

    Exit codes: 0 if what may be looked at is whole, 1 if something is broken (after a repair: still), 2 for a mistake.
    """

    action: CliPositionalArg[Literal["check", "repair"]] = Field(description="what to do")
    place: CliPositionalArg[str] = Field(description="folder or URL: a storage, or a run or registry in it")
    older_than_h: float = Field(
        24.0, ge=0, description="hours for which nobody may have written to what is removed: a live run may yet end it"
    )
    quick: bool = Field(False, description="compare sizes only, and read no contents")


def main() -> None:
    """Carry out a command about a storage."""
    command = read(StorageCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        url = storage.absolute(command.place).rstrip("/")
        storage.check_access(url)
        if not storage.exists(url):
            raise FileNotFoundError(f"there is nothing at {url}: give the folder or URL that jobs have as --storage")
        broken = _work(url, command, console)
    if broken:
        raise SystemExit(FAILED)


def _work(url: str, command: StorageCommand, console: Console) -> bool:
    """Return whether something is broken, and not mended."""
    look = look_over(url, quick=command.quick, progress=lambda done, of: console.count("checking folder", done, of))
    console.done()
    limit = time.time() - command.older_than_h * 3600
    left = 0
    for finding in look.findings:
        young = finding.changed is None or finding.changed > limit
        if finding.unfinished and young:
            console.say(f"unfinished  {finding.url}: {finding.what}; young enough to be written still")
            continue
        left += not _settle(finding, young, command, console)
    for refusal in look.refused:
        console.say(f"unknown     {refusal}")
    console.say(f"{look.sealed} sealed folders and {look.entries} champion entries looked at in {url}; {left} broken")
    return left > 0


def _settle(finding: Finding, young: bool, command: StorageCommand, console: Console) -> bool:
    """Say what is to be done, do it if a repair is asked for, and return whether it is mended."""
    if finding.mend is None:
        console.say(f"broken      {finding.url}: {finding.what}; {finding.remedy}")
        return False
    if young:
        console.say(f"broken      {finding.url}: {finding.what}; left alone until it is {command.older_than_h:g} h old")
        return False
    if command.action == "check":
        console.say(f"broken      {finding.url}: {finding.what}; repair: {finding.remedy}")
        return False
    finding.mend()
    console.say(f"repaired    {finding.url}: {finding.what}; {finding.remedy}")
    return True
