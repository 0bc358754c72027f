#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The layout of the ABI headers against tests/abi/layout.baseline.

layout.py generate HEADER...            C source of a program that prints the layout
layout.py check BASELINE PROGRAM        compares; exit 1 and says what to do on a difference
layout.py update BASELINE PROGRAM       takes the new layout over where that is legal

Lines are `const NAME VALUE`, `type NAME SIGNATURE`, `size STRUCT BYTES` and
`field STRUCT.NAME OFFSET BYTES TYPE`, in the order of the headers. Within a major version a line that is there never changes or goes, except
that a minor version and the size of a growable struct may rise: only then may lines be added, and a
reserved field be given a name.
"""
import re
import subprocess
import sys

COMMENT = re.compile(r'/\*.*?\*/', re.S)
STRUCT = re.compile(r'^struct (\w+) \{(.*?)^\};', re.S | re.M)
TYPEDEF = re.compile(r'^typedef ([^;]*);', re.M)
CONSTANT = re.compile(r'^#define (KVL_[A-Z0-9_]+) (\S.*)$', re.M)
# Commas inside the parentheses of a function pointer separate nothing.
PARAMETER = re.compile(r'(?:[^,(]|\([^)]*\))+')


def type_only(parameter):
    """`const struct kvl_batch *batch` -> `const struct kvl_batch *`: names are free to change."""
    if '(' in parameter:
        return re.sub(r'\(\*\w+\)', '(*)', parameter.strip())
    match = re.match(r'^(.*[\s*])(\w+)$', parameter.strip())
    return match.group(1).strip() if match else parameter.strip()


def fields(body):
    for line in re.sub(r'\s+', ' ', body).split(';'):
        line = line.strip()
        if not line:
            continue
        slot = re.match(r'^([^(]*)\(\*(\w+)\)\((.*)\)$', line)
        if slot:
            kinds = ', '.join(type_only(p) for p in PARAMETER.findall(slot.group(3)))
            yield slot.group(2), f'{slot.group(1).strip()} (*)({kinds})'
            continue
        plain = re.match(r'^(.*[\s*])(\w+)((?:\[\w+\])*)$', line)
        if not plain:
            sys.exit(f'layout.py: cannot read the field "{line}"')
        yield plain.group(2), plain.group(1).strip() + plain.group(3)


def generate(headers):
    names = [re.search(r'kvlane/\w+\.h$', h).group(0) for h in headers]
    for name in names:
        print(f'#include <{name}>')
    print('#include <stdio.h>\nint main(void)\n{')
    for header, name in zip(headers, names):
        with open(header, encoding='utf-8') as file:
            text = COMMENT.sub('', file.read())
        for constant, value in CONSTANT.findall(text):
            if constant.endswith('_H'):
                continue
            if value.lstrip().startswith('"'):
                print(f'    printf("const {constant} \\"%s\\"\\n", {constant});')
            elif re.match(r'^[-(0-9UI]', value.lstrip()):
                print(f'    printf("const {constant} %lld\\n", (long long)({constant}));')
        for typedef in TYPEDEF.findall(text):
            for name, kind in fields(typedef):
                print(f'    printf("type {name} {kind}\\n");')
        for struct, body in STRUCT.findall(text):
            print(f'    printf("size {struct} %zu\\n", sizeof(struct {struct}));')
            for field, kind in fields(body):
                print(f'    printf("field {struct}.{field} %zu %zu {kind}\\n", '
                      f'offsetof(struct {struct}, {field}), '
                      f'sizeof(((struct {struct} *)0)->{field}));')
    print('    return 0;\n}')


def parse(lines):
    """name -> rest of the line."""
    result = {}
    for line in lines:
        kind, name, rest = line.split(' ', 2)
        result[f'{kind} {name}'] = rest
    return result


def growable(layout, struct):
    return f'field {struct}.size' in layout


def named(old, new):
    """Reserved fields of `old` -> the field of `new` that took exactly their place."""
    added = {}
    for name, value in new.items():
        if name not in old and name.startswith('field '):
            added[name.split('.')[0], value] = name
    return {name: added[name.split('.')[0], value] for name, value in old.items()
            if re.search(r'\.reserved\d*$', name) and name not in new
            and (name.split('.')[0], value) in added}


def judge(old, new):
    """Returns (differences, what is illegal about them)."""
    differs, illegal = [], []
    minor_rose = False
    renamed = named(old, new)
    for name, value in old.items():
        now = new.get(name)
        if now == value:
            continue
        differs.append(f'-{name} {value}')
        if now is not None:
            differs.append(f'+{name} {now}')
        if name in renamed:
            continue
        kind, what = name.split(' ')
        if now is not None and int_or_none(now) is not None and int(now) > int(value):
            if kind == 'const' and what.endswith('_ABI_MINOR'):
                minor_rose = True
                continue
            if kind == 'size' and growable(old, what):
                continue
        illegal.append(f'{name} was {value}' + ('' if now is None else f', is {now}'))
    added = [name for name in new if name not in old]
    differs += [f'+{name} {new[name]}' for name in added]
    if added and not minor_rose:
        illegal.append('lines were added and no KVL_..._ABI_MINOR was raised')
    for name in added:
        if name.startswith('field ') and name not in renamed.values():
            struct = name.split(' ')[1].split('.')[0]
            if f'size {struct}' in old and not growable(old, struct):
                illegal.append(f'struct {struct} has no size field and cannot grow')
    return differs, illegal


def int_or_none(text):
    return int(text) if re.match(r'^-?\d+$', text) else None


def main():
    if len(sys.argv) > 2 and sys.argv[1] == 'generate':
        return generate(sys.argv[2:])
    if len(sys.argv) != 4 or sys.argv[1] not in ('check', 'update'):
        sys.exit(__doc__)
    _, verb, baseline, program = sys.argv
    now = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    try:
        with open(baseline, encoding='utf-8') as file:
            before = file.read()
    except FileNotFoundError:
        before = ''
    old, new = parse(before.splitlines()), parse(now.splitlines())
    differs, illegal = judge(old, new) if before else ([], [])
    majors = [n for n in old if n.endswith('_ABI_MAJOR') and new.get(n) != old[n]]
    if majors:
        illegal = []
    if verb == 'update':
        if illegal:
            sys.exit('refused, a released layout never changes within a major version:\n  '
                     + '\n  '.join(illegal))
        with open(baseline, 'w', encoding='utf-8') as file:
            file.write(now)
        return 0
    if before == now:
        print(f'{len(new)} lines of layout as in the baseline')
        return 0
    print('\n'.join(differs) or 'only the order differs')
    if illegal:
        print('\nThis breaks programs that were built before. Within a major version a line never'
              '\nchanges; new ones go to the end of a record with a size, with a higher minor:')
        print('  ' + '\n  '.join(illegal))
    print(f'\nIf it is meant:  tests/abi/layout.py update {baseline} {program}')
    return 1


sys.exit(main())
