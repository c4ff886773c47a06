"""How soon the first meme is judged: importing and loading, in a process of its own.

    python benchmarks/serving.py [--root DIR] [--repeats 5]

`MemeClassifier.load` (three models, temperature, thresholds, fingerprints checked) against
`transformers.pipeline` for the same two experts, which a user would write without this project.
The two take turns; `floor` imports what no loading of the two experts can do without. Needs a
finished run (`make pilot`) under the root. Writes results/serving.csv: medians and their ratios.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.config import ROOT, Settings

RESULTS = Path(__file__).parent / "results/serving.csv"
COUNTED = "import sys; print(len(sys.modules))"
PROGRAMS = {
    "import lib.serving": "import lib.serving",
    "MemeClassifier.load": "from lib.serving import MemeClassifier\n"
    "MemeClassifier.load(sys.argv[1])",
    "import transformers.pipeline": "from transformers import pipeline",
    "two transformers.pipeline": "from transformers import pipeline\n"
    "pipeline('text-classification', model=sys.argv[1] + '/models/text_expert')\n"
    "pipeline('image-classification', model=sys.argv[1] + '/models/vision_expert')",
    "floor: torch, timm, transformers' models": "import timm, torch\n"
    "from transformers import BertForSequenceClassification, TimmWrapperForImageClassification",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Settings().root)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    seconds = {name: [] for name in PROGRAMS}
    modules = {}
    # One round more than counted: the first one reads the files from the disk.
    for turn in tqdm(range(options.repeats + 1), desc="rounds"):
        for name, program in PROGRAMS.items():
            taken, modules[name] = run(program, options.root)
            if turn:
                seconds[name].append(taken)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    table = pd.DataFrame(
        {
            "what": name,
            "seconds": median[name],
            "modules": modules[name],
            "ratio_to_two_pipelines": median[name] / median["two transformers.pipeline"],
        }
        for name in PROGRAMS
    ).assign(
        cpu=platform.processor() or platform.machine(),
        versions=" ".join(f"{name} {version(name)}" for name in ("timm", "torch", "transformers")),
    )
    write_csv(RESULTS, table)
    print(table.to_string(index=False, columns=["what", "seconds", "modules"]))


def run(program: str, root: Path) -> tuple[float, int]:
    """Seconds of a whole process and the modules it ends with."""
    command = [sys.executable, "-c", f"import sys\n{program}\n{COUNTED}", str(root)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
