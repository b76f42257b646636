"""MONAI Label: what the scripts prepare and refuse, and, marked, a real server that is asked over REST."""

import gzip
import importlib.util
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.deploy.pack import pack_bundle
from custom_transforms.physics import hz_per_ppm
from custom_transforms.reconstruct import reconstruct

requests = pytest.importorskip("requests")
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "integrations" / "monailabel"
SAME_PPM = 2e-6  # float32 through FFTs
SAME_MM = 1e-4  # the affine through ITK's quaternions
TIMEOUT_S = 240


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"monailabel_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


uploads, serve, client = script("uploads"), script("serve"), script("client")


def nifti(values: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return nib.Nifti1Image(values, np.eye(4) if affine is None else affine).to_bytes()


CASE = nifti(np.ones((4, 4, 4, 3), np.float32))
HEADER = nib.Nifti1Header.from_fileobj(io.BytesIO(CASE))


def bomb(mib: int) -> bytes:
    """A case that unpacks to much more than it says."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([packer.compress(CASE), *(packer.compress(bytes(1 << 20)) for _ in range(mib)), packer.flush()])


def with_shape(*shape: int) -> bytes:
    header = HEADER.copy()
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    return header.binaryblock + CASE[348:]


HOSTILE = {
    "huge dimensions": (gzip.compress(with_shape(30000, 30000, 30000, 3)), "case.nii.gz", "are allowed"),
    "negative dimensions": (with_shape(-4, 4, 4, 3), "case.nii", "header that cannot be used"),
    "truncated gzip": (gzip.compress(CASE)[:-30], "case.nii.gz", "damaged"),
    "truncated data": (CASE[:-5], "case.nii", "cut short: "),
    "gzip bomb": (bomb(50), "case.nii.gz", "holds more than that"),
    "wrong checksum": (gzip.compress(CASE)[:-8] + bytes(8), "case.nii.gz", "damaged"),
    "no image": (b"hello" * 1000, "case.nii", "damaged"),
    "empty": (b"", "case.nii.gz", "damaged"),
    "three dimensions": (nifti(np.ones((4, 4, 4), np.float32)), "case.nii", "4-D volume"),
    "complex": (nifti(np.ones((4, 4, 4, 3), np.complex64)), "case.nii", "real numbers"),
    "a folder above": (CASE, "../case.nii", "name must be"),
    "another format": (CASE, "case.mha", "name must be"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_uploads_are_refused(kind: str) -> None:
    content, name, message = HOSTILE[kind]
    with pytest.raises(ValueError, match=message) as refusal:
        uploads.check_upload(io.BytesIO(content), name)
    assert tempfile.gettempdir() not in str(refusal.value)


def test_good_uploads_pass_and_stay_as_they_are(tmp_path: Path) -> None:
    for content, name in ((CASE, "case.nii"), (gzip.compress(CASE), "my_case-1.nii.gz")):
        path = tmp_path / name
        path.write_bytes(content)
        with path.open("r+b") as stream:  # as the server holds it: open for writing too
            uploads.check_upload(stream, name)
            assert stream.read() == content
    with pytest.raises(ValueError, match="more than 100 values"):
        uploads.check_upload(io.BytesIO(CASE), "case.nii", max_values=100)


def test_stack_needs_one_grid(tmp_path: Path) -> None:
    for name, affine in (("a", np.eye(4)), ("b", np.diag([1, 1, 2, 1.0]))):
        nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), affine), tmp_path / f"{name}.nii")
    client.stack_maps([tmp_path / "a.nii"] * 3, tmp_path / "case.nii.gz")
    assert nib.load(tmp_path / "case.nii.gz").shape == (3, 4, 5, 3)
    with pytest.raises(ValueError, match="different grids"):
        client.stack_maps([tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / "case.nii.gz")


def test_only_packs_are_served_and_only_on_loopback(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no packed bundle"):
        serve.place_pack(ROOT / "bundle", tmp_path)
    command, variables = serve.server_command(Path("python"), tmp_path, [tmp_path / "pack"], 8000)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--uvicorn_app") + 1] == "guarded:app"
    assert command[command.index("skip_trainers") + 1] == "true"
    assert variables["TMPDIR"].startswith(str(tmp_path))


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    model: str
    work: Path
    pid: int

    def peak_mib(self) -> float:
        """Most memory that the server has held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def infer(self, image: str, **settings: Any) -> nib.Nifti1Image:
        content = client.infer(self.url, self.model, image, settings)
        return nib.Nifti1Image.from_bytes(gzip.decompress(content))

    def put(self, image: str, content: bytes, name: str = "case.nii.gz") -> requests.Response:
        return requests.put(
            f"{self.url}/datastore/image", params={"image": image}, files={"file": (name, content)}, timeout=TIMEOUT_S
        )

    def post(self, path: str, *, params: Mapping[str, Any] | None = None, **arguments: Any) -> requests.Response:
        data = {"params": json.dumps(params or {})}
        return requests.post(f"{self.url}{path}", params=arguments, data=data, timeout=TIMEOUT_S)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            assert requests.get(f"{url}/info/", timeout=5).ok
        except requests.RequestException:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Pack the default variant, and serve it as `serve.py` does, from its own environment."""
    folder = tmp_path_factory.mktemp("label")
    pack = pack_bundle("unrolled", folder / "packs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, work = folder / "server.log", folder / "work"
    command = [sys.executable, str(SCRIPTS / "serve.py"), "--pack", str(pack), "--work", str(work), "--port", str(port)]
    subprocess.run([*command, "--prepare"], check=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, log)
        yield Server(url, pack.name, work, process.pid)
        assert process.poll() is None, "the server died during the tests"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def case(files: dict[str, str], server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The oblique, anisotropic head as one file, which the server has under the name head."""
    path = tmp_path_factory.mktemp("case") / "case.nii.gz"
    client.stack_maps([files[key] for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK)], path)
    client.upload(server.url, path, "head")
    return path.read_bytes()


def live(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the server, which takes minutes to start where its environment is not made yet."""
    return pytest.mark.doors(pytest.mark.label(pytest.mark.timeout(2400)(test)))


@live
def test_served_maps_are_those_of_reconstruct(
    server: Server, case: bytes, files: dict[str, str], oblique_affine: np.ndarray, tmp_path: Path
) -> None:
    reconstruct(**files, field_unit="ppm", output=str(tmp_path))
    for source in (keys.CHI_PARA, keys.CHI_DIA, keys.CHI_TOTAL):
        image = server.infer("head", source=source)
        reference = nib.load(tmp_path / f"{source}.nii.gz")
        assert image.get_data_dtype() == np.float32
        assert image.shape == reference.shape
        assert np.abs(image.affine - oblique_affine).max() < SAME_MM
        difference = np.abs(image.get_fdata() - reference.get_fdata()).max()
        print(f"{source}: largest difference {difference:.1e} ppm of {np.abs(reference.get_fdata()).max():.2f} ppm")
        assert difference < SAME_PPM


@live
def test_client_brings_units_field_strength_and_relaxivity(
    server: Server, case: bytes, files: dict[str, str], head: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    stored = dict(files)
    for key, factor in ((keys.LOCAL_FIELD, hz_per_ppm(7.0)), (keys.R2PRIME, 1e-3)):
        stored[key] = str(tmp_path / f"{key}.nii.gz")
        image = nib.load(files[key])
        nib.save(nib.Nifti1Image((image.get_fdata() * factor).astype(np.float32), image.affine), stored[key])
    options = ["--field_unit", "hz", "--rate_unit", "per_ms", "--b0_tesla", "7", "--relaxivity_per_s_ppm", "137"]
    command = [sys.executable, str(SCRIPTS / "client.py"), "--server", server.url, *options, "--name", "seven"]
    command += ["--local_field", stored[keys.LOCAL_FIELD], "--rate", stored[keys.R2PRIME], "--mask", stored[keys.MASK]]
    subprocess.run([*command, "--output", str(tmp_path / "maps")], check=True)
    for source in (keys.CHI_PARA, keys.CHI_DIA):  # the same head: its R2' / Dr is that of 137 at 3 T
        served = nib.load(tmp_path / "maps" / f"{source}.nii.gz").get_fdata()
        assert np.abs(served - server.infer("head", source=source).get_fdata()).max() < 10 * SAME_PPM
        wrong = server.infer("head", source=source, b0_tesla=7).get_fdata()
        assert np.abs(served - wrong).max() > 1e-3
    assert "seven" not in requests.get(f"{server.url}/datastore/?output=all", timeout=TIMEOUT_S).text


@live
def test_wrong_order_of_the_maps_shows(server: Server, case: bytes) -> None:
    volume = nib.Nifti1Image.from_bytes(gzip.decompress(case))
    values = volume.get_fdata(dtype=np.float32)
    for name, order in (("swapped", (1, 0, 2)), ("shifted", (2, 0, 1))):
        content = gzip.compress(nifti(np.ascontiguousarray(values[..., order]), volume.affine))
        assert server.put(name, content).ok
    right, swapped = (server.infer(name, source=keys.CHI_PARA).get_fdata() for name in ("head", "swapped"))
    assert np.abs(right - swapped).max() > 1e-2
    answer = server.post(f"/infer/{server.model}", image="shifted", output="image")
    assert answer.status_code == 422
    assert "in this order" in answer.text
    assert str(server.work) not in answer.text


@live
def test_only_its_own_files(server: Server, case: bytes, files: dict[str, str]) -> None:
    outside = [files[keys.MASK], "../studies/head", "/etc/hostname", "..", "head.nii.gz/../head"]
    infer = f"/infer/{server.model}"
    for path in outside:
        assert server.post(infer, image=path, output="image").status_code == 422
        for name in ("image", "model_filename", "label", "image_path"):
            assert server.post(infer, image="head", output="image", params={name: path}).status_code == 422
        download = requests.get(f"{server.url}/datastore/image", params={"image": path}, timeout=TIMEOUT_S)
        assert download.status_code == 422
        assert server.put(path, case).status_code == 422
        assert server.put("new", case, name=path).status_code == 422
    assert server.post(infer, image="nobody", output="image").status_code == 404
    assert server.post("/infer/other", image="head", output="image").status_code == 404
    assert server.post(infer, image="head", session_id="x").status_code == 422
    assert server.put("head", case).status_code == 409
    trap = server.work / "evaluated"
    for name in ("b0_tesla", "source", "device"):
        text = f"$open({str(trap)!r}, 'w')"
        assert server.post(infer, image="head", output="image", params={name: text}).status_code == 422
    assert not trap.exists()
    assert {path.name for path in (server.work / "studies").glob("*.nii*")} >= {"head.nii.gz"}
    assert not list(server.work.parent.glob("*.nii*"))


@live
def test_other_routes_and_hosts_are_shut(server: Server, case: bytes) -> None:
    for method, path in (
        *(("POST", f"/train/{server.model}"), ("PUT", f"/model/{server.model}"), ("GET", f"/model/{server.model}")),
        *(("PUT", "/session/"), ("GET", "/proxy/dicom/x"), ("GET", "/logs/"), ("POST", "/reload")),
        *(("GET", "/datastore/dataset"), ("PUT", "/datastore/label"), ("POST", "/batch/infer/x"), ("GET", "/docs")),
    ):
        assert requests.request(method, server.url + path, timeout=TIMEOUT_S).status_code in (403, 404, 405)
    elsewhere = requests.get(f"{server.url}/info/", headers={"Host": "example.org"}, timeout=TIMEOUT_S)
    assert elsewhere.status_code == 400
    chunked = requests.put(f"{server.url}/datastore/image?image=a", data=iter([b"x"]), timeout=TIMEOUT_S)
    assert chunked.status_code == 411


@live
def test_hostile_files_leave_the_server_alive(server: Server, case: bytes) -> None:
    before_mib = server.peak_mib()
    for content, name, _ in [*HOSTILE.values(), (bomb(1500), "bomb.nii.gz", "")]:
        assert server.put("hostile", content, name).status_code == 422
        direct = requests.post(
            f"{server.url}/infer/{server.model}?output=image",
            files={"file": (name, content)},
            data={"params": "{}"},
            timeout=TIMEOUT_S,
        )
        assert direct.status_code == 422
    assert server.peak_mib() < before_mib + 200
    assert "hostile" not in requests.get(f"{server.url}/datastore/?output=all", timeout=TIMEOUT_S).text
    assert server.infer("head", source=keys.CHI_DIA).get_fdata().any()


@live
def test_ten_parallel_requests_lose_nothing(server: Server, case: bytes) -> None:
    serial = {source: server.infer("head", source=source).get_fdata() for source in (keys.CHI_PARA, keys.CHI_DIA)}
    sources = [keys.CHI_PARA, keys.CHI_DIA] * 5

    def one(number: int) -> np.ndarray:
        assert server.put(f"parallel{number}", case).ok
        return server.infer(f"parallel{number}", source=sources[number]).get_fdata()

    with ThreadPoolExecutor(10) as pool:
        maps = list(pool.map(one, range(10)))
    for source, values in zip(sources, maps, strict=True):
        assert np.array_equal(values, serial[source])
    assert len(list((server.work / "studies").glob("parallel*.nii.gz"))) == 10
    for number in range(10):
        client.remove(server.url, f"parallel{number}")
    assert not list((server.work / "studies").glob("parallel*.nii.gz"))
    assert not list((server.work / "tmp").glob("*.nii*"))
