# %% [markdown]
# # Judge any two models
#
# > Audit and gate for models that this project did not make: scikit-learn, PyTorch int8, ONNX

# %% [markdown]
# A smaller model is to replace a larger one. Which groups lose accuracy, and is it more than you tolerate? To answer, the audit needs no run of this project and no pruning. It needs what both models answered on the same images. Three pairs are judged here:
#
# 1. two scikit-learn models that read digits;
# 2. a PyTorch network before and after dynamic int8 quantisation;
# 3. the same network as an ONNX file, before and after quantisation by onnxruntime.
#
# For each pair the gate gives one of three answers: *passes*, *fails* or *cannot tell*.

# %%
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import nn

import fairgrape
from fairgrape.data.appearance import EXPRESSIONS
from fairgrape.report.audit_page import group_rows

torch.set_num_threads(1)
torch.manual_seed(0)
tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two scikit-learn models
#
# scikit-learn brings 1,797 digits, 8 × 8 pixels each. The groups are two writing styles, thin and bold: each digit's images are divided at their median amount of ink.

# %%
digits = load_digits()
ink = pd.Series(digits.data.sum(axis=1))
median = ink.groupby(digits.target).transform("median")
style = np.where(ink > median, "bold", "thin")

# %%
#| fig-alt: The digits 0 to 9, in thin strokes in the upper row and in bold ones below
fig, axes = plt.subplots(2, 10, figsize=(8, 1.9), layout="constrained")
for row, name in zip(axes, ("thin", "bold")):
    for digit, ax in enumerate(row):
        of_digit = ink[(digits.target == digit) & (style == name)]
        # the image in the middle of the group
        typical = of_digit.index[of_digit.argsort().iloc[len(of_digit) // 2]]
        ax.imshow(digits.images[typical], cmap="gray_r")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)

# %% [markdown]
# The larger model is a support vector machine on all pixels. The smaller one is a linear model that sees every second row and column.

# %%
train, test = train_test_split(np.arange(len(ink)), test_size=0.5, random_state=0)
small = digits.images[:, ::2, ::2].reshape(len(ink), -1)
svm = SVC().fit(digits.data[train], digits.target[train])
linear = LogisticRegression(max_iter=2000).fit(small[train], digits.target[train])

# %% [markdown]
# The answers go into one table: an id, the true label, a column for each model and a column for each grouping. `predictions_of` checks the table and says which columns it took for what.

# %%
table = pd.DataFrame(
    {
        "id": [f"digit-{i}" for i in test],
        "label": digits.target[test],
        "svm": svm.predict(digits.data[test]),
        "linear": linear.predict(small[test]),
        "style": style[test],
    }
)
given = fairgrape.predictions_of(table, models=["svm", "linear"], groups=["style"])
found = fairgrape.audit(given)
group_rows(found, "linear", "style")

# %% [markdown]
# The audit's notes are sentences about what the table does not show.

# %%
print(*found.notes, sep="\n")

# %% [markdown]
# `save_audit` writes a page that works offline, the same as JSON with its schema, the ids of the images that were lost, and a card for the model's repository.

# %%
made = fairgrape.save_audit(found, tmp / "digits")
{what: path.name for what, path in made.items()}

# %% [markdown]
# May the linear model replace the support vector machine if no style may lose more than 2 points? No:

# %%
(ruling,) = fairgrape.verdicts(given, tolerance=2)
print(ruling.verdict)

# %%
right = {m: table[m] == table.label for m in ("svm", "linear")}
bold = table["style"] == "bold"
change = 100 * (right["linear"][bold].mean() - right["svm"][bold].mean())
assert np.isclose(found.groups.set_index("group").change["bold"], change)
assert ruling.verdict.status == "fails" and made["page"].is_file()

# %% [markdown]
# ## A PyTorch network in int8
#
# The next network names the expression of rendered faces in four skin tones. No real person is shown.

# %%
faces = fairgrape.synthetic_table(0, train=(600, 500, 400, 300), val=(5,) * 4, test=(800,) * 4)
pixels = torch.from_numpy(fairgrape.render_faces(faces, 32)).float() / 255 - 0.5
names = np.array(EXPRESSIONS.index)
labels = torch.from_numpy(faces.expression.cat.codes.to_numpy(np.int64))
known, asked = (torch.from_numpy(np.flatnonzero(faces.split == s)) for s in ("train", "test"))


# %%
class Net(nn.Module):
    "Two linear layers on the pixels of a small picture"

    def __init__(self, hidden: int, classes: int):
        super().__init__()
        self.hidden = nn.Linear(3 * 16 * 16, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.head(F.relu(self.hidden(F.avg_pool2d(x, 2).flatten(1))))


# %%
net = Net(128, len(names))
optimizer = torch.optim.Adam(net.parameters(), 1e-3)
for _ in range(15):
    for rows in known[torch.randperm(len(known))].split(64):
        optimizer.zero_grad()
        F.cross_entropy(net(pixels[rows]), labels[rows]).backward()
        optimizer.step()
net.eval();

# %% [markdown]
# In int8 a weight takes a quarter of its bytes. `torch.ao.quantization.quantize_dynamic` quantises linear layers, which is why this network has no others. PyTorch 2.14 still has the function but calls it deprecated: the package torchao is to replace it.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the deprecation
    int8 = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
int8


# %% [markdown]
# Both networks answer on the 3,200 images that were not used for training, 800 of each tone.

# %%
def as_table(answers: dict) -> pd.DataFrame:
    "One table of predictions, for `predictions_of`"
    columns = {"id": [f"face-{i}" for i in asked.tolist()], "label": names[labels[asked]]}
    columns |= {model: names[np.asarray(codes)] for model, codes in answers.items()}
    return pd.DataFrame(columns).assign(tone=faces.tone.astype(str).to_numpy()[asked])


with torch.inference_mode():
    answers = {"float": net(pixels[asked]).argmax(1), "int8": int8(pixels[asked]).argmax(1)}
terms = dict(models=["float", "int8"], groups=["tone"])
quantised = fairgrape.predictions_of(as_table(answers), **terms)
of_int8 = fairgrape.audit(quantised)
group_rows(of_int8, "int8", "tone")

# %%
(ruling,) = fairgrape.verdicts(quantised, tolerance=2)
print(ruling.verdict)


# %% [markdown]
# The kept output says that int8 passes. Which answers change depends on the last bits of a few sums, so another version of PyTorch can give other intervals. The check below therefore asks for the rule, not for the answer: a network passes if the interval of every group ends within the tolerance.

# %%
def check(verdict, found, tolerance: float = 2):
    "The verdict follows from the intervals, and its changes are those of the audit"
    within = (verdict.table.low > -tolerance).all()
    assert (verdict.status == "passes") == within
    changes = found.groups.set_index("group").change[verdict.table.index]
    assert np.allclose(verdict.table.delta, changes)


check(ruling.verdict, of_int8)
assert (answers["float"] == labels[asked]).float().mean() > 0.5
assert isinstance(int8.hidden, torch.ao.nn.quantized.dynamic.Linear)
assert (answers["float"] == answers["int8"]).float().mean() > 0.9

# %% [markdown]
# With 80 images of each tone the same networks cannot pass: so few images cannot exclude a loss of 2 points even where no answer changes. The gate says about how many are missing.

# %%
few = as_table(answers).groupby("tone").head(80)
(ruling,) = fairgrape.verdicts(fairgrape.predictions_of(few, **terms), tolerance=2)
print(ruling.verdict)

# %%
assert ruling.verdict.status != "passes"
assert (ruling.verdict.table.n == 80).all()

# %% [markdown]
# ## An ONNX file
#
# The same network is exported to ONNX. onnxruntime quantises the file and runs both, without PyTorch. This part needs three more packages, `pip install 'fairgrape[onnx]'`, and is left out where they are missing.

# %%
missing = [m for m in ("onnx", "onnxruntime", "onnxscript") if find_spec(m) is None]
if missing:
    print(f"Left out, for want of {', '.join(missing)}: pip install 'fairgrape[onnx]'")


# %%
def onnx_files(folder: Path) -> dict[str, Path]:
    "The network as two ONNX files: as it is, and with int8 weights"
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    files = {name: folder / f"{name}.onnx" for name in ("float", "int8")}
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (pixels[:2],),
            files["float"],
            input_names=["image"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    ready = folder / "ready.onnx"  # with the shapes that quantisation needs
    quant_pre_process(files["float"], ready, skip_symbolic_shape=True)
    quantize_dynamic(ready, files["int8"], weight_type=QuantType.QInt8)
    return files


# %%
def run_onnx(file: Path) -> np.ndarray:
    "Class codes that an ONNX file gives"
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, how, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": pixels[asked].numpy()})[0].argmax(axis=1)


# %%
if not missing:
    files = onnx_files(tmp)
    size = {name: file.stat().st_size for name, file in files.items()}
    print({name: f"{of / 1000:.0f} kB" for name, of in size.items()})

# %%
if not missing:
    onnx_answers = {name: run_onnx(file) for name, file in files.items()}
    exported = fairgrape.predictions_of(as_table(onnx_answers), **terms)
    of_onnx = fairgrape.audit(exported)
    display(group_rows(of_onnx, "int8", "tone"))

# %%
if not missing:
    (ruling,) = fairgrape.verdicts(exported, tolerance=2)
    print(ruling.verdict)

# %% [markdown]
# Here, too, the kept output says that int8 passes, at little more than a quarter of the bytes.

# %%
if not missing:
    check(ruling.verdict, of_onnx)
    assert (onnx_answers["float"] == answers["float"].numpy()).mean() > 0.999
    assert size["int8"] < 0.4 * size["float"]

# %% [markdown]
# ## On the command line
#
# The same works on files. The exit status is the gate's answer: 0 passes, 1 fails, 3 cannot tell.
#
# ```bash
# fairgrape audit predictions.csv --models svm linear --groups style --out audit
# fairgrape gate predictions.csv --models svm linear --groups style --tolerance 2
# ```
#
# Networks trained on real faces were judged in the same way, quantised by PyTorch and by onnxruntime: [Audits of quantised networks](../../runs/showcase/audits.md), made by [a script](../_tools/audits.py).
