"""The rules of rules.py over the whole tree; each rule also has to notice a sample that breaks it."""

import ast
import pathlib
import re
import subprocess

import pytest

import rules

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                         check=True).stdout.split()
FILES = [path for path in TRACKED if (ROOT / path).is_file()]
FOLDERS = sorted({str(folder) for path in FILES for folder in pathlib.Path(path).parents} - {"."})
THERE = {*FILES, *FOLDERS}
CPP = [path for path in FILES if path.endswith((".cpp", ".hpp", ".h", ".cu", ".cuh"))]
PYTHON = [path for path in FILES if path.endswith(".py")
          or re.match(rb"#!.*python", (ROOT / path).read_bytes())]


def read(path):
    return (ROOT / path).read_text()


def exists(path):
    return (ROOT / path).is_file()


def check(paths, finder):
    findings = [finding for path in paths for finding in finder(path, read(path))]
    assert not findings, "\n".join(findings)


def test_includes_follow_the_table():
    check(CPP, lambda path, text: rules.include_findings(path, text, exists))


def test_an_include_against_the_table_is_noticed():
    found = rules.include_findings("src/base/x.cpp", '#include "runtime/session_impl.hpp"\n', exists)
    assert found and "src/base" in found[0]


def test_every_source_folder_is_in_the_table():
    homeless = {str(pathlib.Path(path).parent) for path in CPP
                if path.startswith(("src/", "runtime/", "bindings/")) and not rules.owner(path)}
    assert not homeless


def test_files_are_short():
    check(CPP + PYTHON, rules.length_findings)
    assert rules.length_findings("x.cpp", "\n" * 501)


def test_cpp_functions_are_short():
    check(CPP, rules.cpp_function_findings)


def test_a_long_cpp_function_is_noticed():
    sample = "namespace a {\nint f(int x) {\n" + "  x++;\n" * 80 + "  return x;\n}\n}\n"
    assert rules.cpp_function_findings("x.cpp", sample)
    assert not rules.cpp_function_findings("x.cpp", sample.replace("  x++;\n" * 80, ""))


def python_function_findings(path, text):
    return [f"{path}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
            and node.end_lineno - node.lineno + 1 > rules.FUNCTION_LINES_MAX]


def test_python_functions_are_short():
    check(PYTHON, python_function_findings)
    assert python_function_findings("x.py", "def f():\n" + "    pass\n" * 80)


def test_the_preprocessor_decides_nothing_outside_the_list():
    check(CPP, rules.conditional_findings)
    assert rules.conditional_findings("src/x.cpp", "#ifdef A\n#endif\n")


def test_headers_are_guarded():
    check([path for path in CPP if path.endswith((".hpp", ".h", ".cuh"))], rules.guard_findings)
    assert rules.guard_findings("x.hpp", "int f();\n")


def test_the_environment_is_read_in_one_place():
    check([path for path in CPP if not path.startswith("docs/")], rules.getenv_findings)
    assert rules.getenv_findings("src/x.cpp", 'auto a = std::getenv("A");')


def test_no_global_changes():
    check([path for path in CPP if not path.startswith(("tests/", "docs/"))], rules.global_findings)
    for sample in ("int counter = 0;\n", "std::map<int, int> table;\n", "static int calls;\n",
                   "void f() {\n  static std::string last;\n}\n", "inline thread_local int x = 1;\n"):
        assert rules.global_findings("src/x.cpp", sample), sample
    for sample in ("constexpr int kLimit = 3;\n", "static const Table table = make();\n",
                   "using Key = std::pair<int, int>;\n", "static int size_of(int x);\n"):
        assert not rules.global_findings("src/x.cpp", sample), sample


def test_nothing_sleeps_as_synchronisation():
    check(CPP, rules.sleep_findings)
    assert rules.sleep_findings("src/x.cpp", "std::this_thread::sleep_for(1s);")
    assert rules.sleep_findings("src/x.cpp", "usleep(10);")


def test_no_path_of_one_machine():
    own = "tests/tidy/"
    text_files = [path for path in FILES if not path.startswith(own)
                  and b"\0" not in (ROOT / path).read_bytes()]
    check(text_files, rules.machine_path_findings)
    assert rules.machine_path_findings("x.md", "see /root/notes")


def test_public_headers_are_documented():
    check([path for path in CPP if path.startswith("include/")], rules.documentation_findings)
    assert rules.documentation_findings("x.hpp", "\nclass SCALECOM_API A {\n")


def test_decisions_are_short_and_numbered():
    decisions = [path for path in FILES if path.startswith("docs/decisions/")]
    check(decisions, rules.decision_findings)
    numbers = sorted(re.match(r"docs/decisions/(\d{4})-[a-z0-9-]+\.md", path).group(1)
                     for path in decisions)
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]
    assert rules.decision_findings("x.md", "line\n" * 21)


def test_the_readme_shows_the_ten_line_script():
    assert read("docs/examples/ten_lines.py").strip() in read("README.md")


def heading_anchors(path):
    return rules.anchors(read(path)) if path in FILES else ()


def test_documents_link_to_what_is_there():
    check([path for path in FILES if path.endswith(".md")],
          lambda path, text: rules.link_findings(path, text, THERE, heading_anchors))
    for text in ("[a](x.md)", "[a](#none)", "[a](README.md#none)"):
        assert rules.link_findings("CONTRIBUTING.md", text, THERE, heading_anchors)


def test_files_and_decisions_that_are_named_exist():
    texts = [path for path in FILES if not path.startswith("tests/tidy/")
             and path.endswith((".md", ".py", ".cpp", ".hpp", ".h", ".cu", ".cuh"))]
    check(texts, lambda path, text: rules.name_findings(path, text, THERE))
    for text in ("see docs/none.md", "`src/none.cpp`", "decision 9999"):
        assert rules.name_findings("x.md", text, THERE)


def test_the_architecture_names_every_folder():
    text = read("docs/architecture.md").split("## One tensor")[0]
    missing = [folder for folder in FOLDERS if folder.startswith(("src/", "runtime/", "bindings/", "tests/"))
               and folder.count("/") == 1 and f"`{folder.split('/')[1]}`" not in text
               and f"`{folder}`" not in text and f"`{folder}/" not in text]
    assert not missing


def clang_format_version():
    try:
        output = subprocess.run(["clang-format", "--version"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return int(re.search(r"version (\d+)", output.stdout).group(1))


def test_cpp_is_formatted():
    if clang_format_version() != 14:
        pytest.skip("clang-format 14 is not installed")
    result = subprocess.run(["clang-format", "--dry-run", "-Werror", *CPP], cwd=ROOT,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
