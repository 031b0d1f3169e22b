"""A Python SDK client without a token is led through the authorization: auth_flow.py URL user|machine; prints what it saw.

The tool `slow` needs a scope more than the others. Of the tokens that it held it prints all.
"""

import asyncio
import json
import sys
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit

import httpx2
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

CALLBACK = "http://127.0.0.1:6274/callback"
TRIES = 200


class Memory:
    """What a client keeps."""

    def __init__(self) -> None:
        self.tokens = None
        self.client = None
        self.held = []

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens) -> None:
        self.tokens = tokens
        self.held.append(tokens)

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client) -> None:
        self.client = client


class Browser:
    """A user who agrees to everything."""

    def __init__(self) -> None:
        self.asked = []
        self.answered = {}

    async def open(self, url: str) -> None:
        query = dict(parse_qsl(urlsplit(url).query))
        self.asked.append({key: query.get(key) for key in ("scope", "resource", "code_challenge_method")})
        url += "&" + urlencode({"login_hint": "ada"})
        async with httpx2.AsyncClient(follow_redirects=False) as client:
            while not url.startswith(CALLBACK):
                answer = await client.get(url)
                url = urljoin(url, answer.headers["location"])
        self.answered = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}

    async def back(self) -> AuthorizationCodeResult:
        answered = self.answered
        return AuthorizationCodeResult(code=answered["code"], state=answered.get("state"), iss=answered.get("iss"))


async def main(url: str, kind: str) -> None:
    memory, browser, statuses = Memory(), Browser(), []
    if kind == "machine":
        secret = {"client_id": "robot", "client_secret": "robot-secret", "scope": "read"}
        auth = ClientCredentialsOAuthProvider(server_url=url, storage=memory, **secret)
    else:
        metadata = OAuthClientMetadata(
            client_name="peer",
            redirect_uris=[CALLBACK],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            token_endpoint_auth_method="none",
            application_type="native",
        )
        auth = OAuthClientProvider(url, metadata, memory, browser.open, browser.back)

    async def note(response) -> None:
        if str(response.request.url) == url:
            statuses.append(response.status_code)

    async with httpx2.AsyncClient(auth=auth, timeout=30, event_hooks={"response": [note]}) as http:
        async with streamable_http_client(url, http_client=http) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await session.initialize()
                seen = {"first": statuses[:2], "echo": await echo(session), "scope": memory.tokens.scope}
                try:
                    seen["slow"] = (await session.call_tool("slow", {"steps": 1, "interval": 1})).content[0].text
                except Exception as error:
                    seen["slow"] = f"refused: {error}"
                seen["stepped"] = memory.tokens.scope
                before, asked = len(memory.held), len(browser.asked)
                for _ in range(TRIES):
                    if len(memory.held) > before:
                        break
                    await asyncio.sleep(0.1)
                    await echo(session)
                by = "alone" if len(browser.asked) == asked else "by the user"
                seen["renewed"] = by if len(memory.held) > before else "no"
                seen["still"] = await echo(session)
    seen["asked"] = browser.asked
    seen["held"] = [token for held in memory.held for token in (held.access_token, held.refresh_token) if token]
    print(json.dumps(seen))


async def echo(session: ClientSession) -> str:
    return (await session.call_tool("echo", {"text": "hello"})).content[0].text


asyncio.run(main(sys.argv[1], sys.argv[2]))
