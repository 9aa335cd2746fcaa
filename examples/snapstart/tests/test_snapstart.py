"""Without SnapStart `warm()` opens the connection during Init. Snapshot and restore are tested in tests/tools."""


def test_the_first_invocation_finds_a_connection(call, database):
    first, second = call(), call()
    assert first == second
    assert first["opened"] == 1
