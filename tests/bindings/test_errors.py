"""What wrong input gets, on one process and on 1 to 4 ranks; and the session that goes on."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 2, 3, 4])
@pytest.mark.parametrize("claim", names("programs.errors"))
def test_errors(claims, ranks, claim):
    claims.check(ranks, "programs.errors", claim)
