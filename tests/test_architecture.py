"""The house rules of the design, read from the source: who imports whom, what importing may cost."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: package -> the packages of ours that it may import
MAY_IMPORT = {
    "router": {"router"},
    "policies": {"policies", "router"},
    "training": {"training", "policies", "router"},
    "gateway": {"gateway", "policies", "router"},
}
#: Folder -> its base: the modules that others beside them may import. Every other module is a leaf, which no
#: sibling imports. Before you add one here, ask whether the one that needs it should not own it.
BASE = {
    "router": {
        # nouns and contracts
        "types", "errors", "config_base", "config_experts", "config_mistakes", "config",
        "policy", "objective", "pacing",
        "artifact", "files", "gates", "conversation",
        "expert_names", "steps", "stepped", "stickiness", "null_experts",
        "sameness",
        # the quality floor
        "guarantee", "floors",
        # what policies are made of
        "blending", "clustering", "committee", "descent", "directions", "effects", "features", "languages",
        "prompt_counts", "ridge", "trees",
        # the encoder's parts
        "encoder_check", "encoder_export", "encoder_folder", "encoder_graph", "encoder_precision",
        "encoder_runtime", "encoder_tokens", "encoder_torch",
        # an encoder that is taught
        "augmentation", "pupil", "text_model",
    },
    "router/experts": {
        "base", "failure", "plain", "provider", "usage",  # what an expert is, and what it may answer
        "http", "sse",  # the wire
        "health", "balancer", "retries", "hedging", "checks",  # what the pool does with them
        "example", "replay", "reply", "script",  # the parts of a simulated answer
    },
    "router/steps": {"base"},
    "router/keys": {"records", "script", "store", "follower", "registry"},
    "router/guards": {"base"},
    "router/ledger": {"embedded", "outbox", "script", "store", "caps", "caps_script", "share", "spool",
        "pipe", "claim", "journal", "settlements", "under_way", "account", "answers", "located",
        "refusal", "reservation", "spares", "orphan", "decision_rows", "decision_spool", "decision_stream",
    },
    "policies": set(),
    "training": {
        "interval", "metrics", "reliability", "report", "resamples", "slices", "evaluation",  # figures and reports
        "data", "source", "embedding", "crossfit", "assurance", "curve", "own_cost", "evaluate", "fit", "extend",
        "predictions", "render", "roster",
        "importers", "records", "text_records", "outcome_file", "importing", "cards", "inspection", "export",
        "command_line", "jobs", "run_folder", "kept_fits", "comparison", "standings", "true_domain", "space",
        "tuning", "memory", "cache_calibration",
    },
    "training/importers": {"base"},
    "training/studies": {"base", "rewording", "ablation", "cost", "domain", "expert", "robustness"},
    "training/page": {"theme", "elements", "forest", "verdict", "report_charts", "report_section", "study_section",
                      "document"},
    "gateway": {
        "errors", "auth", "metrics", "wire", "protocol", "guarding", "loading", "foundation", "service",
        "configuration", "masking", "expert_office", "permission", "admin", "admin_config",
        "admin_client", "command_output", "key_options", "spending",
        "chat_request", "decision_row", "feedback", "reserving", "turn", "chat", "embeddings", "surfaces",
        "preview", "doctor", "app", "server", "translation", "fields", "completions", "stored", "anthropic_request",
        "anthropic_answer", "messages", "response_store", "responses_request", "responses_answer",
        "responses_stream", "responses", "caching", "semantic", "prompts", "counting", "rerank",
        "exchange", "held", "deciding", "openapi",
    },
}  # fmt: skip
#: Costs seconds or is an extra: imported by the function that needs it, never at the top of a module.
HEAVY = {
    "litellm",
    "matplotlib",
    "optuna",
    "phonenumbers",
    "ray",
    "stdnum",
    "openvino",
    "pyarrow",
    "scipy",
    "sentence_transformers",
    "torch",
    "transformers",
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "factory", "misc", "core"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the four packages by its dotted name; a package stands for its `__init__`."""
    found = {}
    for package in MAY_IMPORT:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def statements(tree: ast.AST, *, whole: bool) -> Iterator[ast.AST]:
    """All nodes, or those that run when the module is imported: not the bodies of functions, nor type checking."""
    for node in ast.iter_child_nodes(tree):
        if not whole and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if not whole and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node, whole=whole)


@cache
def imported(module: str, *, whole: bool = True) -> frozenset[str]:
    """Dotted names that the module imports; `from a import b` counts as `a` and `a.b`."""
    names: set[str] = set()
    for node in statements(ast.parse(modules()[module].read_text(encoding="utf-8")), whole=whole):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where a name lives"
            assert node.module is not None
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def ours(module: str) -> set[str]:
    return {name for name in imported(module) if name in modules() and name != module}


def folder_of(module: str) -> str:
    return modules()[module].parent.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_downwards_only(package: str) -> None:
    for module in modules():
        if module.partition(".")[0] == package:
            strangers = {name for name in ours(module) if name.partition(".")[0] not in MAY_IMPORT[package]}
            assert not strangers, f"{module} imports {sorted(strangers)}"


@pytest.mark.parametrize("folder", BASE)
def test_leaves_import_their_base_and_never_a_sibling(folder: str) -> None:
    leaves = {
        name
        for name, path in modules().items()
        if folder_of(name) == folder and path.stem != "__init__" and path.stem not in BASE[folder]
    }
    for module in modules():
        if folder_of(module) == folder:
            siblings = ours(module) & leaves
            assert not siblings, (
                f"{module} imports {sorted(siblings)}; if that is a base, list it in BASE[{folder!r}]"
            )


def test_the_base_lists_only_what_there_is_and_what_is_used() -> None:
    used = {name for module in modules() for name in ours(module)}
    for folder, names in BASE.items():
        for name in names:
            assert f"{folder.replace('/', '.')}.{name}" in used, (
                f"BASE[{folder!r}] lists {name!r}, which none imports"
            )


def test_every_folder_with_modules_has_its_base_listed() -> None:
    assert {folder_of(module) for module in modules()} - {"router/experts/moe"} <= set(BASE)


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: {name for name in ours(module) if not module.startswith(f"{name}.")} for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_the_local_engine_knows_the_gates_and_the_errors_only() -> None:
    engine = "router.experts.moe"
    for module in modules():
        inside = module.startswith(engine)
        for name in ours(module):
            if inside:
                assert name.startswith(engine) or name in ("router", "router.gates", "router.errors"), (
                    module,
                    name,
                )
            else:
                assert not name.startswith(engine), f"{module} imports {name}: only the worker does"


@pytest.mark.parametrize("module", modules())
def test_what_costs_seconds_is_imported_by_the_function_that_needs_it(module: str) -> None:
    at_import = imported(module, whole=False)
    heavy = {name for name in at_import if name in HEAVY or name.partition(".")[0] in HEAVY}
    assert not heavy, f"{module} imports {sorted(heavy)} at its top"


def test_the_gateway_and_the_commands_import_without_the_extras() -> None:
    code = (
        "import sys\n"
        f"for name in {sorted(HEAVY)!r}: sys.modules[name] = None\n"
        "import gateway.app, gateway.commands, policies, router.cli, router.router, training.commands\n"
        "import training.evaluate_command\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", [name for name, path in modules().items() if path.stem == "__init__"])
def test_what_a_package_does_on_import_fits_on_a_page(module: str) -> None:
    text = modules()[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert ast.get_docstring(ast.parse(text)), f"{module} does not say what it is for"


@pytest.mark.parametrize("module", modules())
def test_a_module_says_what_it_is_and_takes_no_private_name_of_another(module: str) -> None:
    assert ast.get_docstring(ast.parse(modules()[module].read_text(encoding="utf-8")))
    private = {name for name in imported(module) if name.rpartition(".")[2].startswith("_")}
    private = {name for name in private if name.partition(".")[0] in MAY_IMPORT}
    assert not private, f"{module} imports {sorted(private)}"


@pytest.mark.parametrize("module", modules())
def test_a_file_is_named_by_its_noun(module: str) -> None:
    assert not VAGUE & set(module.rpartition(".")[2].split("_"))
