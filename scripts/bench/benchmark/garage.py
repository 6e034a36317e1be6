"""The S3 server Garage as one node with one bucket, on loopback."""

import os
import subprocess
import urllib.error
import urllib.request

from . import machine
from .meter import Daemon

BUCKET = "bench"
REGION = "garage"
ACCESS_KEY = "GK0123456789abcdef01234567"
SECRET_KEY = "0123456789abcdef" * 4
CONFIGURATION = """
metadata_dir = '{directory}/meta'
data_dir = '{directory}/data'
db_engine = 'lmdb'
lmdb_map_size = '2G'
metadata_fsync = false
data_fsync = false
disable_scrub = true
replication_factor = 1
rpc_bind_addr = '127.0.0.1:{rpc}'
rpc_public_addr = '127.0.0.1:{rpc}'
rpc_secret = '1799bccfd7411eddcf9ebd316bc1f5287ad12a68094e1c6ac6abde7e6feae1ec'
[s3_api]
s3_region = '{region}'
api_bind_addr = '127.0.0.1:{port}'
root_domain = '.s3.garage.localhost'
[admin]
api_bind_addr = '127.0.0.1:{admin}'
"""


class Garage:
    """Runs from construction until `stop`."""

    def __init__(self, workshop):
        port = workshop.first_port + 1
        self.directory = workshop.directory("garage")
        self.endpoint = f"http://127.0.0.1:{port}"
        self._health = f"http://127.0.0.1:{port + 2}/health"
        configuration = machine.write(self.directory / "garage.toml", CONFIGURATION.format(
            directory=self.directory, region=REGION, port=port, rpc=port + 1, admin=port + 2))
        command = machine.as_server_user(workshop.programs.garage, "-c", configuration)
        env = dict(os.environ, RUST_LOG="garage=warn", GARAGE_DEFAULT_ACCESS_KEY=ACCESS_KEY,
                   GARAGE_DEFAULT_SECRET_KEY=SECRET_KEY, GARAGE_DEFAULT_BUCKET=BUCKET)
        self._daemon = Daemon("store", [*command, "server", "--single-node", "--default-bucket"],
                              self.directory / "log", env)
        self.cgroup = self._daemon.cgroup
        machine.wait_for("Garage", self._is_healthy, 60)
        subprocess.run([*command, "key", "allow", "--create-bucket", ACCESS_KEY], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def _is_healthy(self):
        self._daemon.check_running()
        try:
            with urllib.request.urlopen(self._health, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self):
        self._daemon.stop()


def credentials():
    """The environment that clients of the store need: our own, and those that a server starts to fetch its log."""
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
