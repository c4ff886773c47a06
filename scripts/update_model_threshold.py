"""Store a prediction threshold, or calibrated per-label ones, in a saved emotion classifier."""

import argparse
from pathlib import Path

import emotion_cli

from lib.artifacts import read_json
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.commands import script_command


def options() -> argparse.Namespace:
    made = emotion_cli.parser(
        "Store a threshold in the checkpoint, atomically. The previous weights stay beside as "
        "model.safetensors.bak."
    )
    choice = made.add_mutually_exclusive_group(required=True)
    choice.add_argument("--threshold", type=float, help="one cut in (0, 1] for all labels")
    choice.add_argument(
        "--per-label",
        nargs="?",
        type=Path,
        const=True,
        metavar="CALIBRATION.JSON",
        help="the temperature and the cuts that calibrate_model.py fitted (calibration.json beside "
        "the model)",
    )
    made.add_argument("--temperature", type=float, help="with --threshold: also set T > 0")
    args = made.parse_args()
    if args.per_label and args.temperature is not None:
        made.error("--per-label brings its own temperature; drop --temperature")
    if args.per_label is True:
        args.per_label = args.model / "calibration.json"
    return args


def fitted(file: Path, folder: Path, model: BERTEmotionClassifier) -> tuple[float, list[float]]:
    """Return T and the cuts (L,) of a calibration.json, in the order of the checkpoint's labels.

    Raises ValueError if a field is missing or it was fitted on other weights or labels.
    """
    calibrate = script_command("calibrate_model", folder)
    content = read_json(file, calibrate)
    try:
        weights, cuts, temperature = (
            content[field] for field in ("weights", "thresholds", "temperature")
        )
        ordered = [float(cuts[name]["threshold"]) for name in model.names]
        temperature = float(temperature["value"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: the field {error} is missing or malformed; write the file again: {calibrate}"
        ) from None
    if weights != emotion_cli.weights_fingerprint(model):
        raise ValueError(
            f"{file} was fitted on other weights ({weights}) than those in {folder}; fit again: "
            f"{calibrate}"
        )
    return temperature, ordered


def main() -> int:
    args = options()
    model = BERTEmotionClassifier.load(args.model)
    print(f"before: {emotion_cli.described(model)}")
    temperature, threshold = args.temperature, args.threshold
    if args.per_label:
        temperature, threshold = fitted(args.per_label, args.model, model)
    if temperature is not None:
        model.set_temperature(temperature)
    model.set_threshold(threshold)
    model.update(args.model)
    print(f"after:  {emotion_cli.described(BERTEmotionClassifier.load(args.model))}")
    return 0


if __name__ == "__main__":
    emotion_cli.run(main)
