# SPDX-License-Identifier: Apache-2.0
"""usage: controller_page.py PAGE.html OUT.c
Turns the dashboard into a C constant, with a policy that lets browsers run exactly what is in it.
"""

import base64
import hashlib
import re
import sys


def digests(page, tag):
    """The inside of each such element, in the words of Content-Security-Policy."""
    found = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), page, re.S)
    if len(re.findall(rb"<%s\b" % tag, page)) != len(found) or not found:
        sys.exit(f"controller_page: every <{tag.decode()}> must be inline and without attributes")
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found
    )


def main():
    with open(sys.argv[1], "rb") as file:
        page = file.read()
    policy = (
        f"default-src 'none'; script-src {digests(page, b'script')}; "
        f"style-src {digests(page, b'style')}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    rows = [", ".join(str(byte) for byte in page[i : i + 20]) for i in range(0, len(page), 20)]
    with open(sys.argv[2], "w", encoding="ascii") as file:
        file.write(
            '#include "controller_page.h"\n'
            "const unsigned char controller_page[] = {\n" + ",\n".join(rows) + "};\n"
            "const size_t controller_page_size = sizeof(controller_page);\n"
            f'const char controller_page_policy[] = "{policy}";\n'
        )


main()
