"""Stands empty shared objects in for the CUDA libraries that PyPI's torch links.

torch from PyPI comes built for CUDA and will not import without some 5 GB of
libraries that no CPU benchmark ever calls. Each missing library becomes a stub
which only defines the symbols that torch imports from it, under the same symbol
versions; calling one traps. libcudart stays real: torch calls it at import.
"""

import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

REAL = "libcudart.so"
CUDA_NAME = re.compile(r"^(cu|nccl|nvshmem|nvrtc|nvtx)[A-Za-z_0-9]*$")


def run(*args: str) -> str:
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def needed_libraries(lib_dir: pathlib.Path) -> set[str]:
    """Libraries that the dynamic linker does not find for any of torch's own."""
    missing: set[str] = set()
    for lib in lib_dir.glob("libtorch*.so"):
        for line in run("ldd", str(lib)).splitlines():
            if "not found" in line:
                missing.add(line.split()[0])
    return missing


def version_owners(lib_dir: pathlib.Path) -> dict[str, str]:
    """Symbol version -> the library that torch expects to define it."""
    owners: dict[str, str] = {}
    for lib in lib_dir.glob("lib*.so"):
        library = ""
        for line in run("readelf", "-W", "-V", str(lib)).splitlines():
            if match := re.search(r"File: (\S+)", line):
                library = match[1]
            elif library and (match := re.search(r"Name: (\S+) +Flags", line)):
                owners[match[1]] = library
    return owners


def imported_symbols(lib_dir: pathlib.Path) -> dict[str, set[str]]:
    """Undefined symbols by the version they ask for ('' for CUDA names without one)."""
    wanted: dict[str, set[str]] = {}
    for lib in lib_dir.glob("lib*.so"):
        for line in run("readelf", "-W", "--dyn-syms", str(lib)).splitlines():
            columns = line.split()
            if len(columns) < 8 or columns[6] != "UND":
                continue
            name, _, version = columns[7].partition("@")
            version = version.lstrip("@")
            if version or CUDA_NAME.match(name):
                wanted.setdefault(version, set()).add(name)
    return wanted


def write_stub(path: pathlib.Path, versions: dict[str, set[str]], plain: set[str]) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        source, script = pathlib.Path(tmp, "stub.c"), pathlib.Path(tmp, "stub.map")
        names = sorted(plain.union(*versions.values()))
        source.write_text("".join(f"void {n}(void) {{ __builtin_trap(); }}\n" for n in names))
        command = ["cc", "-shared", "-nostdlib", "-o", str(path), f"-Wl,-soname,{path.name}", str(source)]
        if versions:
            nodes = (f"{v} {{ global: {' '.join(f'{n};' for n in sorted(s))} }};\n" for v, s in versions.items())
            script.write_text("".join(nodes))
            command.append(f"-Wl,--version-script={script}")
        run(*command)


def main() -> None:
    lib_dir = pathlib.Path(sysconfig.get_path("platlib"), "torch", "lib")
    missing = needed_libraries(lib_dir)
    if any(name.startswith(REAL) for name in missing):
        sys.exit("torch_without_cuda: libcudart is missing; install nvidia-cuda-runtime first")
    wanted, owners = imported_symbols(lib_dir), version_owners(lib_dir)
    for name in sorted(missing):
        # Unversioned symbols resolve from any loaded library; NCCL's stub carries them.
        plain = wanted.get("", set()) if name.startswith("libnccl") else set()
        versions = {v: wanted[v] for v, owner in owners.items() if owner == name and v in wanted}
        write_stub(lib_dir / name, versions, plain)
    print(f"torch_without_cuda: {len(missing)} stubs in {lib_dir}")


if __name__ == "__main__":
    main()
