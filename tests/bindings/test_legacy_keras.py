"""scalecom.tensorflow.keras with the legacy tf-keras, on 2 and 3 ranks."""

import pytest

pytest.importorskip("tf_keras", reason="tf-keras is not installed")


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_claim_about_the_legacy_keras_holds(launch, ranks):
    verdicts = launch(ranks, "programs.claims:check_all", timeout=120,
                      arguments={"module": "programs.legacy_keras"},
                      env={"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow",
                           "SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "40"})
    problems = [f"rank {rank}, {claim}:\n{problem}" for rank, verdict in enumerate(verdicts)
                for claim, problem in verdict.items() if problem]
    assert not problems, "\n".join(problems)
    assert len(verdicts[0]) >= 5
