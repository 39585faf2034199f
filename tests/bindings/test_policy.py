"""What ranks send whose rates were chosen for a budget of bytes."""

import pytest


@pytest.mark.parametrize("ranks, mode, bytes_per_step, values",
                         [(2, "cyclic", 200_000, "float32"), (2, "sharded", 40_000, "bfloat16"),
                          (3, "cyclic", 40_000, "bfloat16"), (3, "sharded", 200_000, "float32")])
def test_a_budget_is_kept_and_used(launch, ranks, mode, bytes_per_step, values):
    # By messages, where bytes are counted as the formula does.
    values = launch(ranks, "programs.budget:is_kept",
                    arguments={"bytes_per_step": bytes_per_step, "mode": mode, "values": values},
                    env={"SCALECOM_SHARED_MEMORY": "0"})
    for rank in values:
        assert 0.9 * bytes_per_step < rank["sent"] <= bytes_per_step, rank
