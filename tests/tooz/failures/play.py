"""Plays each failure of Tooz on one driver, for `cargo xtask tooz --failures` and the tests of this folder.

Usage: play.py PLAN

PLAN is JSON: {"side": "tooz" or "althing", "backend", "only", "urls", "server"}: the URLs of the
coordinators, and that of Tooz for the server of both sides. The output is a line of JSON for each scenario. A
line {"ask": what} asks for a fault that only whoever started the server can play, and waits for a line of the
input.

A scenario is written once, and played on both sides on servers of one kind. The fault is the same for both,
done to the server or to the process of a service: what it holds for Tooz's clients, or for the hosts of
Althing, of which there are two wherever the backend lets there be two, is lost. Services look more often than
any does.

Not played, of what the study of Tooz has run: Kubernetes and Consul (no server); a scheme of a URL that
nobody knows, and what a ring of Tooz itself gives (no driver is asked); a leader that is no member (Tooz's
own suite asks for it); locks of two databases of one PostgreSQL that do not meet (a service of Althing names
a host, not a database).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback

import contention
import contract
import groups
import leaders
import locks
import partitions
from servers import Server
from stage import ROWS, Row, Saw, Stage

THEMES = (leaders, locks, contention, groups, partitions, contract)


def played(scenario: Row, stage: Stage) -> Saw:
    """Plays one scenario and ends its services."""
    try:
        return scenario.play(stage)
    except Exception as error:
        traceback.print_exc()
        return Saw(f"{type(error).__name__}: {error}"[:120], right=False)
    finally:
        stage.close()


def main() -> None:
    """Plays what the plan says."""
    # A failure of Tooz fills pages with warnings.
    logging.disable(logging.CRITICAL)
    plan = json.loads(sys.argv[1])
    backend = plan["backend"]
    server = Server(backend, plan["server"])
    for scenario in ROWS:
        section = scenario.sections.get(backend)
        if section is None or plan["only"] not in scenario.name:
            continue
        saw = played(scenario, Stage(plan["side"], backend, plan["urls"], server))
        fault = server.fault if "{fault}" in scenario.failure else ""
        said = {
            "name": scenario.name,
            "section": section,
            "failure": scenario.failure.replace("{fault}", fault),
            "what": saw.what,
            "kind": "right" if saw.right else "wrong",
        }
        print(json.dumps(said), flush=True)
    # Threads of calls that never end must not keep this from ending.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
