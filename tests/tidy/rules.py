"""The rules of the tree, as data and pure functions from text to findings. See test_tidy.py."""

import posixpath
import re

# Who may include whom: folder -> folders. A folder may always include itself and the public headers.
INCLUDES = {
    "src/base": set(),
    "src/device/cuda": {"src/base"},
    "src/device/nccl": {"src/base", "src/device/cuda"},
    "src/kernels": {"src/base"},
    "src/kernels/cuda": {"src/base", "src/kernels", "src/device/cuda"},
    "src/transport": {"src/base"},
    "src/transport/shm": {"src/base"},
    "src/transport/socket": {"src/base", "src/transport"},
    "src/transport/mpi": {"src/base", "src/transport"},
    "src/collective": {"src/base", "src/transport", "src/kernels"},
    "src/collective/shm": {"src/base", "src/transport", "src/transport/shm", "src/collective",
                           "src/kernels"},
    "src/collective/mpi": {"src/base", "src/transport", "src/transport/mpi", "src/collective",
                           "src/kernels"},
    "src/collective/device": {"src/base", "src/transport", "src/kernels", "src/collective",
                              "src/device/nccl"},
    "src/compress": {"src/base"},
    "src/sparse": {"src/base", "src/kernels", "src/collective", "src/collective/device",
                   "src/compress"},
    "src/mpi_plugin": {"src/base", "src/transport", "src/transport/mpi", "src/collective",
                       "src/collective/mpi"},
    "runtime/control": {"src/base", "src/transport", "src/transport/shm", "src/transport/socket",
                        "runtime/wake_up.hpp"},
    "runtime/negotiation": {"src/base", "runtime/control", "runtime/negotiation.hpp"},
    "runtime/timeline": {"src/base", "runtime/negotiation.hpp", "runtime/start_thread.hpp"},
    "runtime/autotune": {"src/base", "runtime/negotiation.hpp"},
    "runtime/tuning": {"src/base", "src/kernels", "src/transport", "src/transport/shm",
                       "src/collective", "src/collective/shm"},
    "runtime": {"src/base", "src/kernels", "src/transport", "src/mpi_plugin/mpi_backend.hpp",
                "src/transport/shm", "src/transport/socket", "src/collective",
                "src/collective/shm", "src/collective/device", "src/device/nccl",
                "src/compress", "src/sparse", "runtime/control", "runtime/negotiation",
                "runtime/autotune", "runtime/timeline", "runtime/tuning"},
    # The C interface is the runtime's own face; the other bindings see the public headers only.
    "bindings/c": {"runtime", "src/base/json_line.hpp"},
    "bindings/jax_ffi": set(),
    "bindings/tensorflow_ops": set(),
    "tools": {"src/kernels", "src/kernels/cuda", "src/device/cuda"},
    "tests": {"src/base", "src/device/cuda", "src/device/nccl", "src/kernels", "src/kernels/cuda",
              "src/transport", "src/transport/mpi", "src/transport/shm", "src/transport/socket",
              "src/collective", "src/collective/device", "src/collective/mpi",
              "src/collective/shm", "src/compress", "src/sparse", "src/mpi_plugin", "runtime",
              "runtime/autotune", "runtime/control", "runtime/negotiation", "runtime/timeline",
              "runtime/tuning", "bindings/jax_ffi/xla_ffi.hpp", "bindings/tensorflow_ops/api.hpp"},
}

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# Where the preprocessor may decide, and why.
CONDITIONALS = {
    "include/scalecom/c_api.h": "extern \"C\" for C++",
    "src/base/wait.cpp": "the processor's pause instruction",
    "src/kernels/cpu/": "Highway compiles these files once for each instruction set",
    "tests/support/catch.hpp": "Catch2 version 2 or 3",
    "tests/support/run_cases.cpp": "Catch2 version 2 or 3",
}

# Where a thread may sleep for a time, and why.
SLEEPS = {
    "src/base/wait.cpp": "the one wait discipline of polled transports",
    "tools/bench/modes.cpp": "measures that nothing happens meanwhile",
}

GETENV = {"runtime/config_env.cpp"}

# Variables that outlive every object, and why.
GLOBALS = {
    "src/base/log.cpp": "the logger",
    "src/device/nccl/tuner.cpp": "NCCL calls the plugin of a process, on threads of its own",
    "bindings/c/calls.hpp": "the sessions of a process, the last error of a thread",
    "bindings/c/sessions.cpp": "the process set that a thread uses",
    "bindings/tensorflow_ops/done.cpp": "addresses that a thread has looked up",
    "runtime/mpi_plugin.cpp": "that MPI was given up is a fact of the process",
    "src/mpi_plugin/mpi_process.cpp": "who finalizes MPI is a fact of the process",
}

# Compiled into other files, several times each: no guard.
REPEATED_HEADERS = re.compile(r"_inl\.hpp$")

MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|tmp/w)/")


def owner(path):
    """The folder of INCLUDES that a file belongs to: the longest that matches."""
    folders = [folder for folder in INCLUDES if path.startswith(folder + "/")]
    return max(folders, key=len, default=None)


def included_path(name, exists):
    """The file in the tree that an #include names, or None for others' headers."""
    for root in ("", "src/", "include/"):
        if exists(root + name):
            return root + name
    return None


def include_findings(path, text, exists):
    folder = owner(path)
    if folder is None:
        return []
    findings = []
    for name in re.findall(r'^\s*#include "([^"]+)"', text, re.MULTILINE):
        target = included_path(name, exists)
        if target is None or target.startswith("include/"):
            continue
        allowed = INCLUDES[folder]
        if owner(target) == folder or owner(target) in allowed or target in allowed:
            continue
        findings.append(f"{path} includes {name}: {folder} may include "
                        f"{', '.join(sorted(allowed)) or 'nothing but itself'}")
    return findings


def length_findings(path, text):
    lines = text.count("\n")
    return [f"{path} has {lines} lines; {FILE_LINES_MAX} are allowed"] * (lines > FILE_LINES_MAX)


def _strip_cpp(text):
    """C++ without what could hold a brace that is none: comments, strings, characters."""
    pattern = r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\''
    return re.sub(pattern, lambda match: "\n" * match.group().count("\n"), text, flags=re.DOTALL)


def cpp_functions(text):
    """(first line, last line) of each outermost function body."""
    bodies = []
    stack = []
    statement = ""
    line = 1
    for character in _strip_cpp(text):
        if character == "\n":
            line += 1
        if character == "{":
            head = statement.strip()
            is_function = (head.endswith((")", "const", "noexcept", "override", "mutable"))
                           or re.search(r"\)\s*(?:->\s*[\w:<>&* ]+|:.*)$", head, re.DOTALL))
            is_scope = re.match(r"(?:inline )?(?:namespace|class|struct|enum|union|extern)\b", head)
            inside = any(kind == "function" for kind, _ in stack)
            kind = "function" if is_function and not is_scope and not inside else "other"
            stack.append((kind, line - head.count("\n")))
            statement = ""
        elif character == "}":
            if stack:
                kind, begin = stack.pop()
                if kind == "function":
                    bodies.append((begin, line))
            statement = ""
        elif character == ";":
            statement = ""
        else:
            statement += character
    return bodies


def cpp_function_findings(path, text):
    return [f"{path}:{first}: a function of {last - first + 1} lines; {FUNCTION_LINES_MAX} are "
            "allowed" for first, last in cpp_functions(text)
            if last - first + 1 > FUNCTION_LINES_MAX]


def conditional_findings(path, text):
    if any(path.startswith(allowed) for allowed in CONDITIONALS):
        return []
    return [f"{path}:{number}: {line.strip()}: choose by file, or list it with its reason"
            for number, line in enumerate(text.splitlines(), 1)
            if re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b", line)]


def guard_findings(path, text):
    if REPEATED_HEADERS.search(path) or "#pragma once" in text:
        return []
    return [f"{path} lacks #pragma once"]


def getenv_findings(path, text):
    if path in GETENV or path.startswith("tests/"):
        return []
    return [f"{path} reads the environment; runtime/config_env.cpp is the place"
            ] * bool(re.search(r"\b(secure_)?getenv\s*\(", _strip_cpp(text)))


def sleep_findings(path, text):
    if path in SLEEPS:
        return []
    sleeps = r"\b(sleep_for|sleep_until|usleep|nanosleep|sleep)\s*\("
    found = re.findall(sleeps, _strip_cpp(text))
    return [f"{path} sleeps ({found[0] if found else ''}); wait on a condition with a deadline"
            ] * bool(found)


def global_findings(path, text):
    """Best effort: static and thread_local variables, and variables outside of every body."""
    if path in GLOBALS:
        return []
    findings = []
    for number, line in enumerate(_strip_cpp(text).splitlines(), 1):
        head = re.split(r"[={;]", line, maxsplit=1)[0]
        if "(" in head or re.search(r"\b(const|constexpr|constinit const)\b", head):
            continue
        is_static = re.match(r"\s*(?:inline )?(?:static|thread_local)\s+\S+.*\s\S+", head)
        is_at_scope = re.match(r"(?!(?:using|typedef|extern|template|class|struct|enum|union|friend|"
                               r"namespace|return|public|private|inline namespace)\b)"
                               r"[A-Za-z_][\w:<>,&* ]*[\s&*]\w+\s*$", head)
        if is_static or (is_at_scope and re.search(r"[={;]", line) and not line.startswith("}")):
            findings.append(f"{path}:{number}: {line.strip()} is a global that changes; give it an "
                            "owner")
    return findings


def machine_path_findings(path, text):
    return [f"{path} names a path of one machine: {match.group()}"
            for match in MACHINE_PATHS.finditer(text)]


def documentation_findings(path, text):
    """Public classes, structs, enums and free functions without a comment above."""
    lines = text.splitlines()
    findings = []
    for number, line in enumerate(lines):
        declares = re.match(r"(class|struct|enum class)\s+(?:SCALECOM_API\s+)?\w+[^;]*\{", line) \
            or re.match(r"SCALECOM_API\s+(?!const char\* to_string)[\w:<>*& ]+\(", line)
        above = lines[number - 1].strip() if number else ""
        if declares and not above.startswith(("///", "/*", "*")) and not above.endswith("*/"):
            findings.append(f"{path}:{number + 1}: {line.strip()} has no comment")
    return findings


def decision_findings(path, text):
    lines = [line for line in text.splitlines() if line.strip()]
    return [f"{path} has {len(lines)} lines; a decision takes at most 20"] * (len(lines) > 20)


def anchors(text):
    """What a link to a heading of this document may name behind its #."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    names = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        names.append(f"{name}-{names.count(name)}" if name in names else name)
    return names


def link_findings(path, text, there, anchors_of):
    """Links of a document to files, folders and headings of the tree that are not there."""
    findings = []
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
        if file not in there or (anchor and anchor not in anchors_of(file)):
            findings.append(f"{path} links to {target}")
    return findings


def name_findings(path, text, there):
    """Documents, sources in backquotes and decisions that are named and not there."""
    named = re.findall(r"(?<![\w/.])docs/[\w/-]+\.(?:md|csv|py)\b", text)
    named += re.findall(r"`((?:src|runtime|bindings|include|tests|tools|cmake)/[\w/.-]+\.(?:[ch]pp|h|py|cmake|txt))`",
                        text)
    numbers = {name[len("docs/decisions/"):][:4] for name in there if name.startswith("docs/decisions/")}
    decisions = [number for number in re.findall(r"\bdecision (\d{1,4})\b", text)
                 if number.zfill(4) not in numbers]
    return [f"{path} names {name}" for name in named if name not in there] \
        + [f"{path} names decision {number}" for number in decisions]
