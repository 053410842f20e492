"""Everything that runs in production, on one machine: API server, Metacontroller, hook servers, PostgreSQL."""

from __future__ import annotations

import copy
import secrets
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from psycopg2 import sql

from postgres_writer.core.row import KINDS, Kind
from support.api_client import ApiClient, ApiError, Recorder, ready_of
from support.apiserver import ApiServer
from support.balancer import Balancer
from support.certificates import Certificate, make_certificate
from support.databases import write_folder
from support.manifests import EARLY_FINALIZER, documents
from support.metacontroller import Metacontroller, crd_manifests
from support.postgres import Database, PostgresInstance, prepare_programs, private_instance
from support.server import ServerProcess
from support.waiting import wait_until
from support.world import Row, World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.kube_tools import Tools

TOP = Path(__file__).parents[2]
CONTROLLERS_PATH = "/apis/metacontroller.k8s.io/v1alpha1/{}controllers"
TABLES = ("students", "teachers", "archive.students")
_SECRET = "postgres-writer-token"


@dataclass(frozen=True)
class Variant:
    """One way to install: the kind of controller, the hook version, and whether TLS and a token guard the hooks."""

    kind: str = "composite"
    version: str = "v2"
    secure: bool = False

    def __str__(self) -> str:
        return f"{self.kind}-{self.version}-{'tls' if self.secure else 'plain'}"


@dataclass
class Stack:
    """The running parts. `start()` brings up all but hook servers and controller; `install()` adds these."""

    folder: Path
    tools: Tools
    binary: Path
    api: ApiServer = field(init=False)
    client: ApiClient = field(init=False)
    postgres: PostgresInstance = field(init=False)
    database: Database = field(init=False)
    metacontroller: Metacontroller = field(init=False)
    recorder: Recorder = field(init=False)
    world: World = field(init=False)
    balancer: Balancer = field(init=False)
    hooks: list[ServerProcess] = field(default_factory=list)
    variant: Variant = field(default_factory=Variant)
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def password_file(self) -> Path:
        """The file from which the hook servers read the password of their role."""
        return self.folder / "password"

    @property
    def address(self) -> str:
        """The hooks' address, as the controller has to know it."""
        return f"{'https' if self.variant.secure else 'http'}://127.0.0.1:{self.balancer.port}"

    def start(self) -> None:
        """Start API server, controllers of Kubernetes, PostgreSQL and Metacontroller."""
        self.api = self._running.enter_context(ApiServer(self.folder / "api", self.tools))
        self.client = ApiClient(self.api.url, self.api.token, str(self.api.certificate))
        for manifest in crd_manifests():
            self.apply(manifest)
        self.api.kubectl("apply", "--server-side", "-k", str(TOP / "crds"))
        self.api.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        self.api.start_controllers()  # after the CRDs: what they find at their start they need not discover
        self._start_database()
        self.recorder = Recorder(self.client)
        self.recorder.start()
        self._running.callback(self.recorder.stop)
        self.world = World(self.client, self.database, set(TABLES), self.recorder)
        self.metacontroller = self.new_metacontroller("metacontroller")
        self.metacontroller.start()

    def stop(self) -> None:
        """Stop everything."""
        self._stop_hooks()
        self._running.close()

    def install(self, variant: Variant, *, servers: int = 1, **environ: str) -> None:
        """Start hook servers behind one address and apply the shipped controller, led to that address."""
        self.variant = variant
        scheme, material = ("https", self._tls()) if variant.secure else ("http", {})
        settings = self.hook_environment() | material | environ
        for _ in range(servers):
            server = ServerProcess(settings, scheme=scheme, verify=str(self.folder / "tls.crt"))
            server.start()
            self.hooks.append(server)
        self.balancer = Balancer([server.port for server in self.hooks])
        self.balancer.start()
        self.apply(*self.controllers(self.address))

    def of_another_database(self, parent: Path, name: str) -> Stack:
        """Start one more PostgreSQL and write its folder; gives the same stack with that as its PostgreSQL."""
        other = copy.copy(self)
        other.folder = parent / name
        other.folder.mkdir(parents=True)
        other._start_database()
        connect = {**other.database.connect, "user": "hook", "password": other.password_file.read_text()}
        write_folder(parent, name, Database(connect))
        other.world = World(self.client, other.database, set(TABLES), self.recorder, name=name)
        return other

    @contextmanager
    def second_database(self, parent: Path, *names: str) -> Iterator[Database]:
        """Make one more database of the same PostgreSQL and write a folder of it for each name, for the block."""
        with self.postgres.maintenance.sibling() as database:
            database.query("GRANT ALL ON students TO hook")
            reached = Database({**database.connect, "user": "hook", "password": self.password_file.read_text()})
            for name in names:
                write_folder(parent, name, reached)
            yield database

    def new_metacontroller(self, name: str, *flags: str) -> Metacontroller:
        """Return one more Metacontroller, not started; it ends with the stack at the latest."""
        one = Metacontroller(self.binary, self.api.kubeconfig, self.folder / f"{name}.log", flags)
        self._running.callback(one.stop)
        return one

    def uninstall(self) -> None:
        """Delete every resource, wait until they are gone, then take controller and hook servers away."""
        for kind in KINDS.values():
            self.api.kubectl("delete", kind.plural, "--all", "--all-namespaces", "--timeout=60s", timeout=90)
        self.remove_controller(self.variant.kind)
        self._stop_hooks()

    def remove_controller(self, kind: str) -> None:
        """Delete what is installed of a kind of controller, and give Metacontroller the moment it takes to stop it."""
        for controller in self.controllers("http://unused", kind):
            self.client.request("DELETE", f"{CONTROLLERS_PATH.format(kind)}/{controller['metadata']['name']}")
        time.sleep(0.5)

    def controller(self, url: str, kind: str | None = None) -> dict[str, Any]:
        """Return the first of `controllers()`, which serves PostgresWriters."""
        return self.controllers(url, kind)[0]

    def controllers(self, url: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the shipped controllers of a kind, with the hooks' address, version and credentials put in."""
        shipped = documents((TOP / "metacontroller" / f"{kind or self.variant.kind}.yaml").read_text())
        for manifest in shipped:
            for name, hook in manifest["spec"]["hooks"].items():
                hook["version"] = self.variant.version
                hook["webhook"] = self._webhook(f"{url}/{name}", hook["webhook"])
        return shipped

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests as a user does."""
        command = ("apply", "--server-side", "--force-conflicts", "--filename", "-")
        self.api.kubectl(*command, input=yaml.safe_dump_all(manifests))

    def hook_environment(self) -> dict[str, str]:
        """Return the variables of a hook server: the least privileged role, its password in a file."""
        connect = self.database.connect
        return {
            "PSQL_HOST": connect["host"],
            "PSQL_PORT": connect["port"],
            "PSQL_DBNAME": connect["dbname"],
            "PSQL_USER": "hook",
            "PSQL_PASSWORD_FILE": str(self.password_file),
            "LOG_FORMAT": "text",
        }

    def set_password(self, password: str) -> None:
        """Give the hooks' role a new password, in the database and then in the file."""
        self.database.query("ALTER ROLE hook PASSWORD %s", password)
        self.password_file.write_text(password)

    def make_table(self, table: str) -> None:
        """Create a table with the hooks' grants."""
        self.database.create_table(table)
        statement = sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO hook")
        self.database.query(statement.format(sql.Identifier(*table.split("."))))

    def drop_table(self, table: str) -> None:
        """Drop a table."""
        self.database.query(sql.SQL("DROP TABLE {}").format(sql.Identifier(*table.split("."))))

    def forget_rows(self, namespace: str) -> None:
        """Delete the rows that outlived their resources in a namespace, as Retain and an opt-out let them."""
        for table in self.world.rows():
            statement = sql.SQL("DELETE FROM {} WHERE id LIKE %s").format(sql.Identifier(*table.split(".")))
            for kind in KINDS.values():
                self.database.query(statement, f"{kind.prefix}{namespace}/%")

    def key(self, namespace: str, name: str) -> str:
        """Return the id of the row of a resource of the client's kind."""
        return f"{self.client.kind.prefix}{namespace}/{name}"

    def row(self, table: str, namespace: str, name: str) -> Row | None:
        """Return the row of a resource in a table, or None."""
        return self.world.rows().get(table, {}).get(self.key(namespace, name))

    def ready(self, namespace: str, name: str) -> str:
        """Return "status/reason@generation" of the condition Ready, or an empty text; @- before the first sync."""
        found = self.client.get(namespace, name)
        ready = ready_of(found) if found else {}
        return f"{ready['status']}/{ready['reason']}@{ready.get('observedGeneration', '-')}" if ready else ""

    def wait_ready(self, namespace: str, name: str, wanted: str, timeout: float = 20) -> None:
        """Wait until `ready()` gives `wanted`."""
        key = self.key(namespace, name)
        wait_until(
            lambda: self.ready(namespace, name) == wanted,
            lambda: "\n".join([f"{key} is {self.ready(namespace, name)}, not {wanted}", *self.recorder.history(key)]),
            timeout,
        )

    @contextmanager
    def early_finalizer(self) -> Iterator[None]:
        """Apply the policies that give a new resource the finalizer of the installed controller, for the block."""
        clients = [self.client.of(kind) for kind in KINDS.values()]

        def born() -> list[list[str] | None]:
            return [client.finalizers_at_birth(client.manifest("default", "probe")) for client in clients]

        self.api.kubectl("apply", "--filename", str(EARLY_FINALIZER))
        wait_until(lambda: all(born()), "the policies to be at work")
        try:
            yield
        finally:
            self.api.kubectl("delete", "--filename", str(EARLY_FINALIZER))
            wait_until(lambda: all(names == [] for names in born()), "the policies to be gone")

    def wait_for_controller(self, timeout: float = 30, kinds: Iterable[Kind] = KINDS.values()) -> None:
        """Wait until a new resource of each kind is Ready, so that a case does not pay for the controller's start."""
        name = f"probe-{secrets.token_hex(3)}"
        for client in map(self.client.of, kinds):
            client.create(client.manifest("default", name))
            probe = (f"{client.kind.plural}/{name}", "--namespace=default")
            self.api.kubectl("wait", "--for=condition=Ready", f"--timeout={timeout:.0f}s", *probe)
            self.api.kubectl("delete", "--timeout=60s", *probe)

    def sample(self) -> dict[str, Any]:
        """Return the shipped sample."""
        found: dict[str, Any] = yaml.safe_load((TOP / "k8s" / "samples" / "sample-student.yaml").read_text())
        return found

    def _webhook(self, url: str, shipped: dict[str, Any]) -> dict[str, Any]:
        led = {key: value for key, value in shipped.items() if key in ("timeout", "responseUnMarshallMode")}
        led["url"] = url
        if self.variant.secure:
            led["caBundle"] = {"inline": (self.folder / "tls.crt").read_text()}
            reference = {"name": _SECRET, "namespace": "default", "key": "token"}
            led["authorization"] = {"type": "Bearer", "secretRef": reference}
        return led

    def _tls(self) -> dict[str, str]:
        served, tokens = Certificate(self.folder / "tls.crt", self.folder / "tls.key"), self.folder / "tokens"
        if not served.certificate.exists():
            make_certificate(self.folder, "tls")
            token = secrets.token_urlsafe(24)
            tokens.write_text(f"# the one in use\n{token}\n")
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _SECRET, "namespace": "default"}}
            self.apply(secret | {"stringData": {"token": token}})
        return served.environ | {"HOOK_TOKENS_FILE": str(tokens)}

    def _start_database(self) -> None:
        prepare_programs()
        # One that a test can shut out: few connections, a password, a port.
        settings = {"max_connections": "60", "superuser_reserved_connections": "10"}
        self.postgres = self._running.enter_context(private_instance(password=secrets.token_hex(8), settings=settings))
        self.database = self.postgres.maintenance.create_sibling()
        self.database.query("CREATE ROLE hook LOGIN")
        self.database.query("CREATE SCHEMA archive")
        self.database.query("GRANT USAGE ON SCHEMA archive TO hook")
        self.database.query("GRANT ALL ON students TO hook")
        for table in TABLES[1:]:
            self.make_table(table)
        self.set_password(secrets.token_hex(8))

    def _stop_hooks(self) -> None:
        for server in self.hooks:
            server.stop()
        if self.hooks:
            self.balancer.stop()
        self.hooks.clear()


def gone(client: ApiClient, namespace: str, name: str) -> bool:
    """Say whether a resource does not exist any more."""
    try:
        return client.get(namespace, name) is None
    except (ApiError, OSError):
        return False
