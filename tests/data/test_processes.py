import uuid
from concurrent.futures.process import BrokenProcessPool

import pytest

from lib.data.processes import alone, named_if_killed


def test_a_name_is_had_by_one_at_a_time():
    name = uuid.uuid4().hex
    with alone(name, "refused"):
        with pytest.raises(ValueError, match="refused"), alone(name, "refused"):
            pass
        with alone(f"{name}-other", "refused"):
            pass
    with alone(name, "refused"):
        pass


def test_a_killed_worker_is_named_and_other_faults_stay_what_they_are():
    with (
        pytest.raises(RuntimeError, match=r"was killed, .*: with fewer"),
        named_if_killed("with fewer"),
    ):
        raise BrokenProcessPool
    with pytest.raises(OSError, match="disk"), named_if_killed("with fewer"):
        raise OSError("disk")
