"""The house: imports run one way, rooms are few in each folder, what users import stays where it is."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WINGS = {
    "data": [
        ("data",),
        ("data.graphs", "data.images", "data.sequences", "data.tables", "data.text"),
        ("data.episodes",),
    ],
    "zoo": [
        ("zoo",),
        ("zoo.layers",),
        (
            "zoo.basic",
            "zoo.dynamics",
            "zoo.generative",
            "zoo.graphs",
            "zoo.sequence",
            "zoo.text",
            "zoo.vision",
        ),
        ("zoo.pretrained",),
    ],
    "train": [
        ("train",),
        ("train.optim",),
        ("train.tasks",),
        ("train.loop",),
        ("train.inference",),
        ("train.demo",),
        ("train.measure",),
        ("train.runs",),
        ("train.recipes",),
        ("train.publishing",),
        ("train.search",),
        ("train.architecture_search",),
        ("train.cli",),
    ],
}
"""From the ground up: a wing imports from those before it and from itself. A package alone stands for its root."""

MAY_IMPORT = {"data": {"data"}, "zoo": {"zoo"}, "train": {"data", "zoo", "train"}}

ROOMS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in WINGS
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py"
}


def wing_of(module: str) -> str:
    """The wing that a module is in; its package where it lies at the root."""
    parts = module.split(".")
    wing = ".".join(parts[:2])
    return wing if any(wing in floor for floors in WINGS.values() for floor in floors) else parts[0]


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Our modules that a file imports, also inside functions unless only those of the import itself are asked for."""
    tree = ast.parse(path.read_text())
    inner = {node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    for node in ast.walk(tree):
        if at_import and node in inner:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in WINGS:
                while name and name not in ROOMS and not (ROOT / name.replace(".", "/")).is_dir():
                    name = name.rpartition(".")[0]
                yield name


def floor_of(module: str) -> int:
    wing = wing_of(module)
    return next(i for i, floor in enumerate(WINGS[wing.split(".")[0]]) if wing in floor)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    if room in ("train.entry", "train.__main__", "zoo.__main__"):  # the front doors open on the command line
        return
    package, wing = room.split(".")[0], wing_of(room)
    for other in imports(ROOMS[room]):
        there = other.split(".")[0]
        assert there in MAY_IMPORT[package], f"{room} imports {other}"
        if there == package and other != package:
            same = wing_of(other) == wing
            assert same or floor_of(other) < floor_of(room), f"{room} imports {other} against the grain"


def test_the_table_has_all_wings():
    folders = {
        ".".join(path.relative_to(ROOT).parts)
        for package in WINGS
        for path in (ROOT / package).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert folders == {wing for floors in WINGS.values() for floor in floors for wing in floor if "." in wing}


def test_no_circle():
    graph = {room: {other for other in imports(path, at_import=True) if other in ROOMS} for room, path in ROOMS.items()}
    done: set[str] = set()

    def visit(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, " → ".join((*way, room))
        if room not in done:
            for other in graph[room]:
                visit(other, (*way, room))
            done.add(room)

    for room in graph:
        visit(room, ())


def test_no_folder_of_more_than_fifteen_rooms():
    folders: dict[str, int] = {}
    for room in ROOMS:
        folder = room.rpartition(".")[0]
        folders[folder] = folders.get(folder, 0) + 1
    assert max(folders.values()) <= 15, folders


def test_no_room_is_two():
    """A file that passes 400 lines is two ideas."""
    long = {room: count for room, path in ROOMS.items() if (count := len(path.read_text().splitlines())) > 400}
    tests = {str(p): n for p in (ROOT / "tests").rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long | tests


PUBLIC = """
data: ArraySource Dataset Field ImageReader Source Spec batch_indices decode_image from_arrays list_datasets load
data: prefetch register steps_per_epoch
data.graphs: graph_dataset
data.augment: POLICIES Policy apply policy
zoo: Card create_model fuse list_models load_model model_card register save_model shipped_models
zoo.pretrained: Known Loaded Preprocessing convert describe from_hub from_keras from_torch known_weights load
zoo.pretrained: load_tokenizer preprocessing to_hub to_torch
zoo.activations: activation relu sigmoid softmax tanh
zoo.attention: Cache MultiHeadAttention attend causal_context empty_cache sinusoids
zoo.convolution: avg_pool conv conv_transpose max_pool
zoo.backpropagation: Forward backward forward gradient_descent init loss
zoo.layers: BatchNorm Conv ConvTranspose Dropout DropPath SpatialDropout flatten global_avg_pool norm record
zoo.recurrent: GRU LSTM Stack
zoo.alexnet: AlexNet
zoo.appnp: APPNP
zoo.autoencoder: ConvAutoencoder DenseAutoencoder
zoo.bert: BERT
zoo.char_lm: CharLSTM
zoo.cells: GENOTYPES OPERATIONS Genotype read_genotype
zoo.cnn: CNN
zoo.conv4: Conv4
zoo.convnext: ConvNeXt
zoo.darts: DARTS DARTSSupernet
zoo.densenet: DenseNet
zoo.diffusion: UNet generate noise_schedule
zoo.dynamics: Method Solution SolverError solve
zoo.efficientnet: EfficientNet
zoo.ffjord: FFJORD
zoo.gan: GAN resample
zoo.gat: GAT
zoo.gcn: GCN
zoo.gcnii: GCNII
zoo.gin: GIN
zoo.graph_classifier: GraphClassifier Readout
zoo.graph_network: GraphNetwork
zoo.graphs: SparseRows
zoo.graphsage: GraphSAGE
zoo.message_passing: aggregate gather neighbours one_graph smoothing softmax_of_incoming
zoo.gpt: GPT
zoo.lenet: LeNet5
zoo.latent_ode: LatentODE LatentODEOutput
zoo.llama: Llama
zoo.mlp: MLP
zoo.mobilenet: MobileNetV3
zoo.nas_bench: NASBench201
zoo.neural_ode: NeuralODE
zoo.observe: Observation observe
zoo.ode_net: ODENet
zoo.perceptron: Perceptron
zoo.resnet: ResNet
zoo.sequence: AttentionRegressor SequenceRegressor
zoo.transformer: Block Memory Transformer TransformerClassifier mean_over_tokens
zoo.vae: VAE VAEOutput
zoo.vgg: VGG
zoo.vit: ViT
train.architecture_search.darts: architecture_gradient darts
train.architecture_search.methods: evolution random_search reinforce
train.architecture_search.search: compare search
train.architecture_search.space: CellSpace derive
train.callbacks: csv_history early_stopping log_to progress_bar sigterm tensorboard
train.comparison: Comparison compare comparison get_comparison list_comparisons variants_of
train.checkpoint: Checkpoints CheckpointError
train.class_weights: class_weights
train.demo: Panel Server of_folder panel serve
train.freezing: freeze
train.generate: generate stream
train.gradient_check: GradientCheck check_gradients
train.inference: Estimate Evaluation Prediction Run adapt evaluate examine load load_with_data predict
train.launch: join_processes keep_memory keep_programs require_known_xla_flags roll_call
train.loop: DivergedError Fitted InterruptedTraining Layer RateTest Report evaluate find_rate fit inspect
train.losses: binary_cross_entropy cross_entropy huber mean_absolute_error mean_squared_error
train.measure.diagnosis: Diagnosis Finding diagnose findings
train.metrics: Mean merge summarize weigh
train.optimizers: optimizer
train.parallel: Plan fsdp jit plan pmap
train.plateau: Plateau
train.publishing.folder: publish
train.publishing.hub: push
train.recipe: Recipe get_recipe list_recipes override recipe
train.run: train
train.sample: interpolate manifold sample
train.schedules: schedule
train.search: search tune
train.search.populations: Evaluated Exploit Member Trained fit_population
train.state: State Task
train.step: gradient_task
train.tasks: TASKS classification density diffusion gan graph_classification language_modeling latent_ode
train.tasks: anil link_prediction maml node_classification prototypical reconstruction register regression reptile
train.tasks: seq2seq vae
train.transfer: frozen_layers
train.translate: Translation translate
"""
"""What users import, and from where. What stands here is not moved without its old name being kept."""


@pytest.mark.parametrize("line", PUBLIC.strip().splitlines(), ids=lambda line: line.partition(":")[0])
def test_what_users_import_stays_where_it_is(line):
    module, _, names = line.partition(": ")
    found = importlib.import_module(module)
    package, _, last = module.rpartition(".")
    if package:
        assert getattr(importlib.import_module(package), last) is found
    for name in names.split():
        assert hasattr(found, name), f"{module} has no {name}"


NOT_AT_START = {
    "import train.cli": "jax flax numpy orbax matplotlib tensorflow_datasets sklearn PIL zoo data",
    "import data": "jax flax orbax matplotlib tensorflow_datasets sklearn PIL",
    "import zoo": "orbax matplotlib tensorflow_datasets sklearn torch h5py tokenizers huggingface_hub train data "
    "diffrax equinox",
    "from train.loop import fit": "matplotlib tensorflow_datasets sklearn tensorboardX tyro",
    "from train.inference import predict": "matplotlib tensorflow_datasets sklearn tensorboardX tyro",
    "import train.runs.run": "tensorflow_datasets sklearn tensorboardX tyro",
}
"""What a statement must not import: it is needed only later, or never."""


@pytest.mark.slow
@pytest.mark.parametrize("statement", NOT_AT_START)
def test_nothing_is_imported_before_it_is_needed(statement):
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(NOT_AT_START[statement].split()) & set(loaded.split())
