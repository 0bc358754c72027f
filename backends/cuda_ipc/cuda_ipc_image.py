# SPDX-License-Identifier: Apache-2.0
"""usage: cuda_ipc_image.py KERNELS.fatbin OUT.c
Turns the compiled kernels into a C constant.
"""

import sys


def main():
    with open(sys.argv[1], "rb") as file:
        image = file.read()
    rows = [", ".join(str(byte) for byte in image[i : i + 20]) for i in range(0, len(image), 20)]
    with open(sys.argv[2], "w", encoding="ascii") as file:
        file.write(
            '#include "cuda_ipc_image.h"\n'
            "static const _Alignas(64) unsigned char cuda_ipc_image[] = {\n"
            + ",\n".join(rows)
            + "};\nconst void *cuda_ipc_image_built(void)\n{\n    return cuda_ipc_image;\n}\n"
        )


main()
