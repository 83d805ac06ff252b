"""One seed, one result: on a CPU a run repeats itself bit for bit, however many processes read its images."""

from pathlib import Path

from command_line import Command, Shapes, assert_same, checkpoint, metric_rows


def test_the_same_seed_gives_the_same_losses_metrics_and_weights(
    train: Command, shapes: Shapes, tmp_path: Path
) -> None:
    runs = {"first": 0, "second": 0, "two workers": 2}
    for name, workers in runs.items():
        (tmp_path / name).mkdir()
        options = {**shapes.validation, "epochs": 2, "jitter": (48, 80), "colour_jitter": 0.4, "workers": workers}
        assert train(tmp_path / name / "model.pth", **options).code == 0
    first, *others = (tmp_path / name / "model.pth" for name in runs)
    assert len(metric_rows(first)) == 3  # two validations, and the losses of the last step
    for other in others:
        assert metric_rows(other) == metric_rows(first)
        assert_same(checkpoint(other), checkpoint(first))


def test_another_seed_gives_other_weights(train: Command, tmp_path: Path) -> None:
    for seed in (0, 1):
        assert train(tmp_path / f"{seed}.pth", iters=1, seed=seed).code == 0
    weights = [checkpoint(tmp_path / f"{seed}.pth")["state_dict"]["class_head.predict.weight"] for seed in (0, 1)]
    assert not weights[0].equal(weights[1])
