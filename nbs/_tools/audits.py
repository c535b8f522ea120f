"""Audit compressed copies of dense networks: `python nbs/_tools/audits.py RUN… --cache_root DIR`.

Each RUN is the folder of a finished dense run on UTKFace. Its network is made smaller by programs
that are not this project's: PyTorch's dynamic int8, and the export to ONNX with onnxruntime's
dynamic and static int8. The tables go to runs/showcase/audits.md: numbers only, no image. It needs
`pip install 'fairgrape[onnx]'`, and the set where the run had it.
"""

import argparse
import json
import tempfile
import time
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

import fairgrape
from fairgrape.data.loaders import batches, get_batch
from fairgrape.experiment.dense import images_of
from fairgrape.experiment.preparation import prepare
from fairgrape.experiment.settings import Settings
from fairgrape.networks.models import build_model
from fairgrape.networks.weights import load_weights
from fairgrape.report.audit_page import audit_text, disparity_rows, group_rows

REPO = Path(__file__).resolve().parents[2]
CALIBRATION = 512  # training images, for the ranges of static int8


class Calibration(CalibrationDataReader):
    "Training images, in the form that onnxruntime reads them"

    def __init__(self, images):
        rows = images.rows["train"][:CALIBRATION]
        self.parts = iter([get_batch(images, part)[0].numpy() for part in rows.split(64)])

    def get_next(self):
        part = next(self.parts, None)
        return None if part is None else {"image": part}


def onnx_logits(path: Path, images) -> np.ndarray:
    "Answers of an ONNX file on the test images"
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, how, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"image": x.numpy()})[0] for x, _, _ in batches(images, "test", 64)]
    return np.concatenate(found)


def torch_logits(model, images) -> np.ndarray:
    "Answers of a PyTorch network on the test images"
    with torch.inference_mode():
        return torch.cat([model(x) for x, _, _ in batches(images, "test", 64)]).numpy()


def export(model, size: int, path: Path):
    "The network as an ONNX file of float weights"
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def answers(folder: Path, places: dict, tmp: Path) -> tuple[pd.DataFrame, dict, dict]:
    "Predictions of every copy, sizes of its file in bytes, and the run's settings"
    record = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    known = {f.name for f in fields(Settings)}
    settings = Settings(**{name: value for name, value in record.items() if name in known})
    job = prepare(settings, progress=False, **places)
    images = images_of(job, progress=False)
    model = build_model(settings.network, sum(job.sizes), "none", image_size=settings.image_size)
    model.load_state_dict(load_weights(folder / "model.safetensors"))
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated: torchao is to replace it
        int8 = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
        export(model, settings.image_size, tmp / "float.onnx")
    quant_pre_process(tmp / "float.onnx", tmp / "ready.onnx", skip_symbolic_shape=True)
    quantize_dynamic(tmp / "ready.onnx", tmp / "dynamic.onnx", weight_type=QuantType.QUInt8)
    quantize_static(
        tmp / "ready.onnx",
        tmp / "static.onnx",
        Calibration(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
    )
    torch.save(int8.state_dict(), tmp / "int8.pt")
    both = {"dense": model, "torch dynamic int8": int8}
    logits = {name: torch_logits(network, images) for name, network in both.items()}
    files = {"dense": folder / "model.safetensors", "torch dynamic int8": tmp / "int8.pt"}
    for name, file in (
        ("onnx float", "float.onnx"),
        ("onnx dynamic int8", "dynamic.onnx"),
        ("onnx static int8", "static.onnx"),
    ):
        files[name] = tmp / file
        logits[name] = onnx_logits(files[name], images)
    rows = images.rows["test"].numpy()
    classes = np.array(next(iter(job.heads.values())))
    place = pd.Series(np.arange(len(job.table)), job.table.index)[rows].to_numpy()
    table = pd.DataFrame({"id": rows, "race": np.array(job.group_names)[job.group[place]]})
    table["label"] = classes[job.labels[place, 0]]
    for name, values in logits.items():
        table[name] = classes[values.argmax(axis=1)]
    whole = abs(logits["onnx float"] - logits["dense"]).max()
    assert whole < 1e-2, f"the exported network differs from the dense one by {whole}"
    return table, {name: file.stat().st_size for name, file in files.items()}, record


def markdown(table: pd.DataFrame) -> str:
    "A table in Markdown"
    rows = [list(table), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def points(tolerance: float) -> str:
    "A tolerance with its unit"
    return "1 point" if tolerance == 1 else f"{tolerance:g} points"


def section(folder: Path, places: dict, tolerances: list[float]) -> str:
    "A run's audit as Markdown; its text is printed"
    with tempfile.TemporaryDirectory() as tmp:
        table, sizes, record = answers(folder, places, Path(tmp))
    models = list(sizes)
    given = fairgrape.predictions_of(table, models=models, groups=["race"], baseline="dense")
    found = fairgrape.audit(given)
    print(audit_text(found), flush=True)
    rulings = {t: fairgrape.verdicts(given, tolerance=t) for t in tolerances}
    said = {(r.model, t): r.verdict for t, of in rulings.items() for r in of}
    churn = found.churn[found.churn.group == "all"].set_index("model").changed
    overview = [
        {
            "Network": m,
            "kB": f"{sizes[m] / 1000:,.0f}",
            "Accuracy": f"{100 * (table[m] == table.label).mean():.1f}",
            "Answers changed": f"{churn[m]:.1f} %" if m in churn.index else "–",
        }
        | {f"Gate, {points(t)}": str(getattr(said.get((m, t)), "status", "–")) for t in tolerances}
        for m in models
    ]
    lines = [f"## {record['network']}, seed {record['seed']}", ""]
    lines += [
        f"The run `{folder.name}`, {len(table):,} test images.",
        "",
        markdown(pd.DataFrame(overview)),
        "",
    ]
    for m in models[1:]:
        lines += [f"### {m} against dense", ""]
        if churn[m] == 0:
            lines += ["No answer differs.", ""]
        else:
            lines += [markdown(group_rows(found, m, "race")), ""]
            lines += [markdown(disparity_rows(found, m, "race")), ""]
        for t in tolerances:
            lines += [f"Gate, {points(t)}: {said[m, t]}", ""]
            print(f"{m}, tolerance {t:g}: {said[m, t]}", flush=True)
    return "\n".join(lines)


HEAD = """# Audits of quantised networks

Networks trained on UTKFace by this project and made smaller by programs that are not its own,
judged by `fairgrape.audit` and `fairgrape.verdicts`. Made by `python nbs/_tools/audits.py` with
torch {torch}, onnx {onnx} and onnxruntime {ort} in {seconds:.0f} seconds on one core.
Numbers only: no image is shown.

- *torch dynamic int8* is `torch.ao.quantization.quantize_dynamic`. It quantises linear layers
  only, here the head; the convolutions stay in float.
- *onnx float* is the network exported by `torch.onnx.export`.
- *onnx dynamic int8* and *onnx static int8* are made of it by onnxruntime; convolutions are
  quantised too. Static int8 took the ranges of its activations from {calibration} training images.

Accuracies are in percent, changes in points. The gate can be undecided even where no answer
differs: it needs enough images of the smallest group to exclude a loss. The networks are few and
small, so these figures say nothing about other networks.

"""


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("runs", nargs="+", type=Path)
    p.add_argument("--cache_root", required=True)
    p.add_argument("--tolerance", nargs="+", type=float, default=[1.0, 2.0])
    p.add_argument("--out", type=Path, default=REPO / "runs" / "showcase" / "audits.md")
    a = p.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    places = dict(cache_root=a.cache_root, runs_root=tempfile.mkdtemp())
    body = [section(folder, places, a.tolerance) for folder in sorted(a.runs)]
    head = HEAD.format(
        torch=torch.__version__,
        onnx=onnx.__version__,
        ort=onnxruntime.__version__,
        seconds=time.monotonic() - start,
        calibration=CALIBRATION,
    )
    a.out.write_text(head + "\n".join(body), encoding="utf-8")


if __name__ == "__main__":
    main()
