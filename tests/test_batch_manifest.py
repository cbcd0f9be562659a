"""Manifests: every kind read alike, every fault named with its place, shares that stay the same."""

import json

import pytest

from bioperf.batch import read_manifest, split
from bioperf.batch.manifest import Item
from bioperf.io import InputError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_json_lines_and_glob_say_the_same(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"x")
    table = write(
        folder / "list.csv", "input,psf,tv_weight,output\na.png,psf.npy,1e-3,one.png\n\nb.png,psf.npy,,sub/two.npy\n"
    )
    lines = write(
        folder / "list.jsonl",
        '{"input": "a.png", "psf": "psf.npy", "tv_weight": 0.001, "output": "one.png"}\n'
        '{"input": "b.png", "psf": "psf.npy", "tv_weight": null, "output": "sub/two.npy"}\n',
    )
    first, second = read_manifest(table), read_manifest(lines)
    assert [(item.name, item.input, item.files, item.options, item.key) for item in first] == [
        (item.name, item.input, item.files, item.options, item.key) for item in second
    ]
    assert first[0].options == {"tv_weight": 1e-3} and first[0].name == "one.png" and first[1].options == {}
    assert first[0].input == str(folder / "a.png") and first[0].files == {"psf": str(folder / "psf.npy")}
    assert (first[1].place, second[1].place) == (f"{table}:4", f"{lines}:2")

    found = read_manifest(str(folder / "*.png"), common={"psf": "psf.npy", "tv_weight": "2"})
    assert [item.name for item in found] == ["a.png", "b.png"]
    assert found[0].files == {"psf": "psf.npy"} and found[0].options == {"tv_weight": 2.0}


def test_rows_have_precedence_over_common_options_and_name_their_job(tmp_path):
    table = write(tmp_path / "m.csv", "job,input,psf,mask,tv_weight\n,a.png,own.npy,,3\nmri,k.npy,,m.npy,\n")
    deblur, mri = read_manifest(table, common={"psf": "psf.npy", "tv_weight": "1", "boundary": "periodic"})
    assert deblur.files == {"psf": str(tmp_path / "own.npy")} and deblur.options["tv_weight"] == 3
    assert mri.job == "mri" and mri.files == {"mask": str(tmp_path / "m.npy")}
    assert mri.options == {"tv_weight": 1.0} and mri.name == "k.npy"  # it has no psf and no boundary


def test_a_recursive_glob_keeps_the_folders_apart(tmp_path):
    for name in ("x/a.png", "y/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    items = read_manifest(str(tmp_path / "**" / "*.png"), common={"psf": "p.npy"})
    assert [item.name for item in items] == ["x/a.png", "y/a.png"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "", "no column 'input'"),
        ("m.csv", "input,psf\n", "lists no items"),
        ("m.csv", "psf\np.npy\n", "m.csv:1: has no column 'input'"),
        ("m.csv", "input,psf,psf\na.png,p,p\n", "stands there twice"),
        ("m.csv", "input,psf\na.png\n", "m.csv:2: has 1 cells, the header 2"),
        ("m.csv", "input,psf,colour\na.png,p.npy,red\n", "m.csv:2: deblur has no option 'colour'; known are"),
        ("m.csv", "input,psf,tv_weight\na.png,p.npy,big\n", "m.csv:2: tv_weight: expected a number"),
        ("m.csv", "input,psf,max_iter\na.png,p.npy,1.5\n", "m.csv:2: max_iter: expected an integer"),
        ("m.csv", "input,psf,target\na.png,p.npy,magic\n", "m.csv:2: target: expected"),
        ("m.csv", "input\na.png\n", "m.csv:2: psf: missing"),
        ("m.csv", "input,psf\n,p.npy\n", "m.csv:2: input: expected a path"),
        ("m.csv", "job,input,psf\npaint,a.png,p.npy\n", "unknown job 'paint'"),
        ("m.csv", "input,psf,output\na.png,p.npy,../b.png\n", "not below the output folder"),
        ("m.csv", "input,psf,output\na.png,p.npy,/b.png\n", "not below the output folder"),
        ("m.csv", "input,psf,output\na.png,p.npy,journal.jsonl\n", "journal's name"),
        ("m.csv", "input,psf\na.png,p.npy\nb/a.png,p.npy\n", "m.csv:3: writes 'a.png', which"),
        ("m.csv", "input,psf,output\na.png,p.npy,a.png\nb.npy,p.npy,a.png.json\n", "writes 'a.png.json', which"),
        ("m.csv", "input,psf,figure\na.png,p.npy,a.png\n", "two of its outputs are 'a.png'"),
        ("m.csv", 'input,psf\n"a.png,p.npy\n', "is not CSV"),
        ("m.csv", "input,psf\na\0.png,p.npy\n", "zero bytes"),
        ("m.jsonl", "[1]\n", "m.jsonl:1: expected an object, got list"),
        ("m.jsonl", "{'input': 1}\n", "m.jsonl:1: is not JSON"),
        ("m.jsonl", '{"input": "a.png", "input": "b.png"}\n', "stands there twice"),
        ("m.jsonl", '{"input": "a.png", "psf": "p.npy", "tv_weight": NaN}\n', "NaN is no number"),
        ("m.jsonl", '{"input": 3, "psf": "p.npy"}\n', "input: expected a path, got 3"),
        ("m.jsonl", '{"input": "a.png", "psf": ["p.npy"]}\n', "psf: expected a path"),
        ("m.jsonl", "[" * 100000 + "\n", "is not JSON"),
        ("m.txt", "a.png\n", "unknown kind of manifest '.txt'"),
    ],
)
def test_each_fault_is_named_with_its_place(tmp_path, name, text, words):
    with pytest.raises(InputError) as caught:
        read_manifest(write(tmp_path / name, text))
    message = str(caught.value)
    assert words in message and "\n" not in message and len(message) < 2000


def test_what_is_no_manifest_is_refused(tmp_path):
    for source, words in (
        (tmp_path, "is not a file"),
        (tmp_path / "none.csv", "no such file"),
        (f"{tmp_path}/*.png", "matches no file"),
        ("a\0b", "no such file"),
        ("x" * 5000, "File name too long"),
    ):
        with pytest.raises(InputError, match=words):
            read_manifest(source)
    (tmp_path / "latin.csv").write_bytes(b"input\n\xe9\xff.png\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_manifest(tmp_path / "latin.csv")
    with pytest.raises(InputError, match="--set: deblur has no option 'colour'"):
        read_manifest(f"{tmp_path}/*", common={"colour": "red"})
    with pytest.raises(InputError, match="--job"):
        read_manifest(f"{tmp_path}/*", job="paint")


def test_the_key_is_of_what_is_asked_and_not_of_where_it_stands():
    item = Item("a.png", "deblur", "x/a.png", {"psf": "x/p.npy"}, {}, {"tv_weight": 1.0}, "m.csv:2")
    moved = Item("a.png", "deblur", "y/a.png", {"psf": "y/p.npy"}, {}, {"tv_weight": 1.0}, "n.csv:9")
    assert item.key == moved.key
    others = [
        Item("b.png", "deblur", "x/a.png", {"psf": "x/p.npy"}, {}, {"tv_weight": 1.0}),
        Item("a.png", "mri", "x/a.png", {"psf": "x/p.npy"}, {}, {"tv_weight": 1.0}),
        Item("a.png", "deblur", "x/a.png", {"psf": "x/p.npy"}, {}, {"tv_weight": 2.0}),
        Item("a.png", "deblur", "x/a.png", {"psf": "x/p.npy"}, {"figure": "f.png"}, {"tv_weight": 1.0}),
        Item("a.png", "deblur", "x/a.png", {"psf": "x/p.npy", "weights": "w"}, {}, {"tv_weight": 1.0}),
    ]
    assert len({item.key, *(other.key for other in others)}) == 6


def test_shares_are_disjoint_complete_and_stay_when_rows_are_added():
    items = [json.dumps(k) for k in range(23)]
    shares = [split(items, k, 4) for k in range(4)]
    assert (
        sorted(item for share in shares for item in share) == sorted(items)
        and max(map(len, shares)) - min(map(len, shares)) <= 1
    )
    longer = [split([*items, "more", "and more"], k, 4) for k in range(4)]
    assert all(after[: len(before)] == before for before, after in zip(shares, longer, strict=True))
    for index, count in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(InputError, match="--array"):
            split(items, index, count)
