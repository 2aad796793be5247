# python examples/partial_fit.py
"""A scikit-learn model: what has no state_dict writes files of its own, here with joblib, and reads them to go on."""

from functools import partial

import halving
import joblib
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

R_MAX = 9
SPACE = {
    "hidden": [8, 16, 32, 64],
    "alpha": {"_target_": "scipy.stats.loguniform", "a": 1e-6, "b": 1e-1},
    "lr": {"_target_": "scipy.stats.loguniform", "a": 1e-4, "b": 1e-1},
}
IMAGES, LABELS = load_digits(return_X_y=True)


def train(trial):
    if trial.since:
        model = joblib.load(trial.directory / "model.joblib")
    else:
        model = MLPClassifier(
            trial.configuration["hidden"],
            alpha=trial.configuration["alpha"],
            learning_rate_init=trial.configuration["lr"],
            random_state=trial.seed,
        )
    while True:  # closed at the rung
        model.partial_fit(IMAGES[:1400], LABELS[:1400], classes=range(10))
        joblib.dump(model, trial.directory / "model.joblib")
        yield {"accuracy": model.score(IMAGES[1400:], LABELS[1400:])}


if __name__ == "__main__":
    workers = partial(halving.Process, workers=2)
    where = {"run_dir": "outputs/partial_fit", "resume": True}
    study = halving.tune(
        train, SPACE, halving.SuccessiveHalving, metric="max:accuracy", eta=3, r_max=R_MAX, executor=workers, **where
    )
    best = study.best
    model = joblib.load(study.best_directory / "model.joblib")
    print(f"trial {best.trial} is best: {best.configuration}, accuracy {study.curves[best.trial][-1]['accuracy']:.3f}")
