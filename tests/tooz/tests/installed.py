"""Has an installed client speak to a host: without another package, and as the driver that Tooz finds.

Takes the URL of the host, and the folder that has Tooz.
"""

import sys
from importlib import metadata
from pathlib import Path

import althing

url, packages = sys.argv[1:]
HERE = Path(sys.prefix)


def is_here(file):
    return Path(file).is_relative_to(HERE)


assert is_here(althing.__file__), althing.__file__
for package in ("althing", "tooz_althing"):
    assert (Path(althing.__file__).parents[1] / package / "py.typed").is_file(), package

with althing.Client(f"unix:{url.removeprefix('althing://')}").session() as session:
    session.join("group", "member", create=True)
    with session.lock("alone") as lock:
        assert lock.token > 0

names = {point.name for point in metadata.entry_points(group="tooz.backends")}
assert names == {"althing", "althing+https"}, names

# Behind what is here: it has another copy of the client.
sys.path.append(packages)
from tooz import coordination

coordinator = coordination.get_coordinator(url, b"by-tooz")
assert is_here(sys.modules[type(coordinator).__module__].__file__), type(coordinator)
coordinator.start()
coordinator.join_group_create(b"group-of-tooz")
assert coordinator.get_members(b"group-of-tooz").get() == {b"by-tooz"}
with coordinator.get_lock(b"by-tooz"):
    pass
coordinator.stop()
