"""What MIGRATING.md says, held against the drivers of Tooz, ours, and those of the host."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path

import pytest
from tooz import coordination
from tooz.drivers import redis

from tooz_althing.options import Options

PACKAGE = Path(__file__).parents[1]
GUIDE = (PACKAGE / "MIGRATING.md").read_text()
DRIVERS = PACKAGE.parents[1] / "host" / "drivers"


def _sections() -> dict[str, str]:
    """Returns the tables of options by their titles."""
    options = GUIDE.split("\n## Options\n")[1].split("\n## What behaves")[0]
    return {part.splitlines()[0]: part for part in options.split("\n### ")[1:]}


def _columns(section: str) -> tuple[list[str], list[str]]:
    rows = [row.strip("|").split(" | ") for row in _sections()[section].splitlines() if row.startswith("| ")]
    return [row[0] for row in rows[1:]], [row[1] for row in rows[1:]]


@pytest.mark.parametrize("driver", ["zookeeper", "memcached", "etcd3gw", "mysql", "pgsql", "file"])
def test_each_option_of_a_driver_of_tooz_is_told_of(driver):
    source = resources.files("tooz.drivers").joinpath(f"{driver}.py").read_text()
    named = set(re.findall(r"options\.get\(\s*[\"'](\w+)[\"']", source)) - {"encoding", "ssl_"}
    if driver == "mysql":
        named |= {f"ssl_{name}" for name in ("ca", "capath", "cert", "key", "cipher", "verify_mode")}
    assert named, driver
    assert [name for name in named if not re.search(rf"[`?]{name}\b", GUIDE)] == []


def test_each_option_of_tooz_for_redis_is_told_of():
    left, _ = _columns("Redis")
    told = set(re.findall(r"\w+", " ".join(left)))
    everywhere = {"timeout", "membership_timeout", "lock_timeout", "namespace"}
    assert redis.RedisDriver.CLIENT_ARGS - told - everywhere == set()


@pytest.mark.parametrize(
    ("section", "driver"),
    [("Redis", "redis"), ("ZooKeeper", "zookeeper"), ("etcd", "etcd"), ("memcached", "memcached"),
     ("PostgreSQL", "postgresql"), ("MySQL and MariaDB", "mysql")],
)  # fmt: skip
def test_each_option_of_the_host_that_is_named_there_is_one(section, driver):
    source = (DRIVERS / driver / "src" / "settings.rs").read_text()
    listed = re.findall(r"const OPTIONS\w*: \[&str; \d+\] =\s*\[(.*?)\];", source, re.DOTALL)
    known = {"namespace", *re.findall(r'"([\w-]+)"', " ".join(listed))}
    _, right = _columns(section)
    named = set(re.findall(r"`(tls[\w-]*|[a-z_-]+)(?:=[\w-]*)?`", " ".join(right)))
    commands = {"creator", "--lease"}
    assert named - known - commands == set()


def test_each_option_of_the_service_that_is_named_there_is_one():
    _, right = _columns("In every URL")
    known = {option.name for option in dataclasses.fields(Options)}
    named = set(re.findall(r"`([a-z_]+)`", " ".join(right))) - {"threaded", "sync"}
    assert named and named - known == set()


def test_links_lead_somewhere():
    for guide in ("MIGRATING.md", "README.md"):
        text = (PACKAGE / guide).read_text()
        for path, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", text):
            target = PACKAGE / path if path else PACKAGE / guide
            assert target.exists(), path
            if anchor:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert anchor in {title.lower().replace(" ", "-") for title in titles}, anchor


def test_one_lock_by_both_drivers_is_held_by_one(coordinators, tmp_path, name):
    names: dict[str, type] = {}
    exec(re.search(r"```python\n(class Both.*?)```", GUIDE, re.DOTALL).group(1), names)
    former = [coordination.get_coordinator(f"file://{tmp_path}", member) for member in (b"1", b"2")]
    for coordinator in former:
        coordinator.start()
    key = name.encode()
    both = [names["Both"](old, coordinators(), key) for old in former]
    only_old, only_new = former[1].get_lock(key), coordinators().get_lock(key)
    assert both[0].acquire() and both[0].acquired and not both[1].acquire(False)
    assert not only_old.acquire(False) and not only_new.acquire(False)
    assert both[0].release()
    assert only_old.acquire(False) and not both[0].acquire(False) and only_old.release()
    assert only_new.acquire(False) and not both[0].acquire(False)
    assert not both[0].acquired and only_old.acquire(False), "the first one was given back"
    for coordinator in former:
        coordinator.stop()
