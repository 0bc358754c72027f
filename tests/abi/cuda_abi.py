# SPDX-License-Identifier: Apache-2.0
"""usage: cuda_abi.py SOURCE_FOLDER INCLUDE_FOLDER... -- COMPILER...

Compiles cuda_abi.c against the first folder that has a cuda.h: what the backend says of the CUDA
driver against what the toolkit says. Skipped (77) where there is no toolkit.
"""
import pathlib
import re
import subprocess
import sys
import tempfile


def calls(source):
    """(slot, name, version) of every row of the table."""
    text = (source / 'backends/cuda_ipc/cuda_ipc_api.c').read_text()
    plain = re.findall(r'\b(?:CALL|CALL_V2|OPTIONAL)\((\w+),\s*"(cu\w+)",\s*(\d+)\)', text)
    full = re.findall(r'\bCALL_FULL\((\w+),\s*"(cu\w+)",\s*NULL,\s*(\d+),', text)
    return plain + full


def slots(source):
    """Names of the functions that the table has."""
    text = (source / 'backends/cuda_ipc/cuda_ipc_api.h').read_text()
    return set(re.findall(r'cuda_result \(\*(\w+)\)\(', text))


def main():
    folders, compiler = sys.argv[2:sys.argv.index('--')], sys.argv[sys.argv.index('--') + 1:]
    source = pathlib.Path(sys.argv[1])
    found = [f for f in folders if f and (pathlib.Path(f) / 'cudaTypedefs.h').exists()]
    if not found:
        print('no cuda.h of a toolkit in:', ', '.join(f for f in folders if f))
        print('name one with -Dtoolkit_include=FOLDER')
        return 77
    rows = calls(source)
    missing = slots(source) ^ {slot for slot, _, _ in rows}
    if missing:
        print('not both in the table and in its header:', missing)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        with open(pathlib.Path(folder) / 'cuda_abi_calls.h', 'w') as file:
            for slot, name, version in rows:
                file.write(f'#if CUDA_VERSION >= {version}\n'
                           f'SAME_CALL({slot}, PFN_{name}_v{version});\n#endif\n')
        command = compiler + ['-std=gnu17', '-fsyntax-only', '-Wall', '-Wextra', '-Werror',
                              '-isystem', found[0], '-I', folder,
                              '-I', str(source / 'include'),
                              '-I', str(source / 'backends/cuda_ipc'),
                              str(source / 'tests/abi/cuda_abi.c')]
        code = subprocess.run(command, timeout=120).returncode
    print(f'{len(rows)} functions against {found[0]}:', 'agree' if code == 0 else 'DIFFER')
    return 1 if code else 0


sys.exit(main())
