"""One receiver, several ports, each with a tree of its own."""

from __future__ import annotations

from fiona_dagster.landing import read_journals
from tests.end_to_end.service import wait_until
from tests.making import STUDY
from tests.receiver.conftest import Process
from tests.receiver.raw import Raw


def test_each_port_files_into_its_own_tree(process: Process) -> None:
    process.sites = {"HEART": {"DICOMPORT": 0}, "BRAIN": {"DICOMPORT": 0}}
    process.start()
    addresses = {"": process.address, **process.site_addresses}
    assert len(set(addresses.values())) == 3
    for number, address in enumerate(addresses.values()):
        with Raw(address) as raw:
            raw.associate()
            assert raw.store(f"1.2.3.{number}").status == 0
            assert raw.store("1.2.3.9").status == 0  # the same instance at every site: no conflict, no repeat
            raw.release()

    for number, name in enumerate(addresses):
        tree = process.root.of_site(name)
        files = {path.name for path in (tree.archive / f"scp_{STUDY}").iterdir()}
        assert files == {f"CT.1.2.3.{number}", "CT.1.2.3.9"}
        receipts = [receipt for _, _, receipt in read_journals(tree, {})]
        assert {receipt.kind for receipt in receipts} == {"stored"}
        assert all((process.root.path / receipt.path).is_file() for receipt in receipts)
    assert process.terminate() == 0


def test_each_port_has_its_own_senders(process: Process) -> None:
    process.sites = {
        "HEART": {"DICOMPORT": 0, "receiver": {"accept_unknown": False, "allowed_callers": ["MR3"]}}
    }
    process.start()
    for address, calling, accepted in (
        (process.address, "ANYONE", True),
        (process.site_addresses["HEART"], "ANYONE", False),
        (process.site_addresses["HEART"], "MR3", True),
    ):
        with Raw(address) as raw:
            assert (raw.associate(calling=calling).kind == 2) is accepted


def test_what_a_kill_leaves_is_adopted_at_every_site(process: Process) -> None:
    process.sites = {"HEART": {"DICOMPORT": 0}}
    process.start()
    with Raw(process.site_addresses["HEART"]) as raw:
        raw.associate()
        assert raw.store("1.2.3.1").status == 0
        process.kill()
    tree = process.root.of_site("HEART")
    for path in tree.arrived.glob("* scp_*"):
        path.unlink()  # as if it had died before the line was written
    process.start()
    wait_until("adopted", lambda: [r.kind for _, _, r in read_journals(tree, {})] == ["adopted"], 170)
