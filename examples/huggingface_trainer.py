# python examples/huggingface_trainer.py
"""Hugging Face's Trainer: one callback pauses it after every epoch. It needs pip install 'halving[transformers]'."""

import halving
from halving.huggingface import Pausing
from sklearn.datasets import load_digits
from transformers import PrinterCallback, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.utils import logging

R_MAX = 4
SPACE = {"hidden": [16, 32], "lr": {"_target_": "scipy.stats.loguniform", "a": 1e-3, "b": 3e-2}}
DIGITS = load_digits()
IMAGES = DIGITS.images[:, None].astype("float32") / 16
DATA = [{"pixel_values": image, "labels": label} for image, label in zip(IMAGES, DIGITS.target, strict=True)]


def train(trial):
    logging.disable_progress_bar()
    hidden = trial.configuration["hidden"]
    sizes = {"hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=10, **sizes))
    arguments = TrainingArguments(
        output_dir=str(trial.directory),
        num_train_epochs=R_MAX,  # never the rung
        learning_rate=trial.configuration["lr"],
        lr_scheduler_type="cosine",
        per_device_train_batch_size=32,
        per_device_eval_batch_size=400,
        seed=trial.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    pausing = Pausing(trial)
    trainer = Trainer(model, arguments, train_dataset=DATA[:1400], eval_dataset=DATA[1400:], callbacks=[pausing])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=pausing.checkpoint)


if __name__ == "__main__":
    where = {"run_dir": "outputs/huggingface_trainer", "resume": True}
    study = halving.tune(train, SPACE, halving.SuccessiveHalving, metric="eval_loss", eta=2, r_max=R_MAX, **where)
    best = study.best
    (checkpoint,) = study.best_directory.glob("checkpoint-*")
    model = ViTForImageClassification.from_pretrained(checkpoint)
    print(f"trial {best.trial} is best: {best.configuration}, loss {study.curves[best.trial][-1]['eval_loss']:.3f}")
