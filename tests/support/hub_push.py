"""The part of the Hugging Face Hub that takes files, on top of the server that gives them."""

import base64
import hashlib
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler

import pytest
from huggingface_hub import constants

from .hub import Handler, Server, running, use_as_hub

TOKEN = 'hf_stand_in'


class PushServer(Server):
    """Repositories that are made, and commits to them; ``refused`` paths are answered with 403.

    A file above ``regular`` bytes is uploaded on its own before the commit, as on the Hub.
    """

    regular = 10_000

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = PushHandler
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict] = []
        self.created: list[dict] = []
        self.uploads: dict[str, bytes] = {}
        self.refused: str | None = None

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def head_of(self, repo: str) -> str:
        names = sorted(self.repos[repo].items())
        return hashlib.sha1(repr(names).encode()).hexdigest()

    def publish(self, repo: str) -> None:
        """Let the files of a repository be downloaded."""
        prefix = f'/{repo}/resolve/'
        self.files = {k: v for k, v in self.files.items() if not k.startswith(prefix)}
        for name, body in self.repos[repo].items():
            self.files[f'{prefix}main/{name}'] = body
        self.commit = self.head_of(repo)


class PushHandler(Handler, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition('?')[0]
        if path == '/api/whoami-v2':
            self.checked(lambda: {'name': 'lab', 'type': 'user'})
        elif path.startswith('/api/models/'):
            self.checked(lambda: self.info(path.removeprefix('/api/models/')))
        else:
            super().do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        path = self.path.partition('?')[0]
        parts = path.strip('/').split('/')
        if path == '/api/validate-yaml':
            self.checked(lambda: {'errors': [], 'warnings': []})
        elif path == '/api/repos/create':
            self.checked(lambda: self.create(json.loads(body)))
        elif parts[:2] == ['api', 'models'] and parts[4] == 'preupload':
            self.checked(lambda: self.preupload(json.loads(body)))
        elif parts[:2] == ['api', 'models'] and parts[4] == 'commit':
            self.checked(lambda: self.commit('/'.join(parts[2:4]), body))
        elif path.endswith('.git/info/lfs/objects/batch'):
            self.checked(lambda: self.batch(json.loads(body)))
        else:
            self.reply(404, {})

    def do_PUT(self) -> None:
        length = int(self.headers.get('Content-Length') or 0)
        body = self.rfile.read(length) if length else self.chunks()
        if self.server.refused and self.path.startswith(self.server.refused):
            self.reply(403, {'error': 'quota exceeded'})
            return
        self.server.uploads[hashlib.sha256(body).hexdigest()] = body
        self.reply(200, {})

    def chunks(self) -> bytes:
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def checked(self, answer) -> None:
        """Reply with ``answer()`` to whoever has the token."""
        if self.headers.get('Authorization') != f'Bearer {TOKEN}':
            self.reply(401, {'error': 'Invalid username or password.'})
        elif self.server.refused and self.path.startswith(self.server.refused):
            self.reply(403, {'error': 'not allowed here'})
        else:
            try:
                self.reply(200, answer())
            except KeyError:
                self.reply(404, {'error': 'Repository not found'}, 'RepoNotFound')

    def info(self, repo: str) -> dict:
        files = self.server.repos[repo]
        siblings = [{'rfilename': name} for name in files]
        return {'id': repo, 'modelId': repo, 'sha': self.server.head_of(repo), 'siblings': siblings}

    def create(self, wanted: dict) -> dict:
        repo = f'{wanted["organization"]}/{wanted["name"]}'
        self.server.created.append(wanted)
        self.server.repos[repo] = {}
        return {'url': f'{self.server.address}/{repo}', 'name': repo}

    def preupload(self, wanted: dict) -> dict:
        return {
            'files': [
                {
                    'path': file['path'],
                    'uploadMode': 'lfs' if file['size'] > self.server.regular else 'regular',
                    'shouldIgnore': False,
                }
                for file in wanted['files']
            ]
        }

    def batch(self, wanted: dict) -> dict:
        objects = [
            {**one, 'actions': {'upload': {'href': f'{self.server.address}/upload/{one["oid"]}'}}}
            for one in wanted['objects']
        ]
        return {'transfer': 'basic', 'objects': objects}

    def commit(self, repo: str, body: bytes) -> dict:
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(self.server.repos[repo])
        for line in lines[1:]:
            kind, value = line['key'], line['value']
            if kind == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif kind == 'lfsFile':
                files[value['path']] = self.server.uploads[value['oid']]
            elif kind == 'deletedFile':
                del files[value['path']]
        self.server.repos[repo] = files
        self.server.commits.append(lines[0]['value'])
        self.server.publish(repo)
        oid = self.server.head_of(repo)
        return {'commitUrl': f'{self.server.address}/{repo}/commit/{oid}', 'commitOid': oid}

    def reply(self, status: int, content: dict, code: str | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        if 'error' in content:
            self.send_header('X-Error-Message', content['error'])
        if code:
            self.send_header('X-Error-Code', code)
        self.end_headers()
        self.wfile.write(body)


def pushed_to() -> AbstractContextManager[PushServer]:
    """A server that runs until the block ends."""
    return running(PushServer())


def use_to_push(server: PushServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``server`` be the Hub, with a token for it; files are not sent in the Hub's own protocol."""
    use_as_hub(server, monkeypatch)
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', '/nonexistent/token')
    monkeypatch.setenv('HF_TOKEN', TOKEN)
