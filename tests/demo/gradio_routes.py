"""The Gradio routes that the demo needs, and those that it blocks."""

from __future__ import annotations

KEPT = """
GET / HEAD / GET /config GET /theme.css GET /favicon.ico GET /manifest.json GET /robots.txt
GET /assets/{path:path} GET /static/{path:path} GET /gradio_api/info GET /gradio_api/openapi.json
GET /gradio_api/queue/data GET /gradio_api/upload_progress GET /gradio_api/file={path_or_url:path}
GET /gradio_api/heartbeat/{session_hash} GET /gradio_api/call/{api_name}/{event_id}
GET /gradio_api/call/v2/{api_name}/{event_id} POST /gradio_api/call/{api_name}
POST /gradio_api/call/v2/{api_name} POST /gradio_api/queue/join POST /gradio_api/upload
POST /gradio_api/cancel POST /gradio_api/reset
"""
SHUT = """
GET /config/ GET /svelte/{path:path} GET /openapi.json HEAD /openapi.json GET /pwa_icon
GET /pwa_icon/{size} GET /logout POST /login POST /login/ GET /monitoring GET /monitoring/summary
GET /monitoring/{key} POST /gradio_api/api/{api_name} POST /gradio_api/api/{api_name}/
POST /gradio_api/run/{api_name} POST /gradio_api/run/{api_name}/ GET /gradio_api/app_id
GET /gradio_api/app_id/ POST /gradio_api/call/{api_name}/ POST /gradio_api/call/v2/{api_name}/
POST /gradio_api/component_server POST /gradio_api/component_server/
GET /gradio_api/custom_component/{id}/{environment}/{type}/{file_name} GET /gradio_api/deep_link
GET /gradio_api/dev/reload GET /gradio_api/file/{path:path}
HEAD /gradio_api/file={path_or_url:path} GET /gradio_api/info/ GET /gradio_api/login_check
GET /gradio_api/login_check/ POST /gradio_api/process_recording
HEAD /gradio_api/proxy={url_path:path} GET /gradio_api/proxy={url_path:path}
GET /gradio_api/queue/status POST /gradio_api/reset/ GET /gradio_api/runs GET /gradio_api/runs/
GET /gradio_api/startup-events POST /gradio_api/stream/{event_id}
POST /gradio_api/stream/{event_id}/close
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}
GET /gradio_api/theme.css GET /gradio_api/token GET /gradio_api/token/ GET /gradio_api/user
GET /gradio_api/user/ GET /gradio_api/vibe-code GET /gradio_api/vibe-code/
POST /gradio_api/vibe-code POST /gradio_api/vibe-code/ POST /gradio_api/vibe-edit
POST /gradio_api/vibe-edit/ POST /gradio_api/undo-vibe-edit POST /gradio_api/undo-vibe-edit/
POST /gradio_api/vibe-starter-queries POST /gradio_api/vibe-starter-queries/
"""


def judged(table: str) -> set[tuple[str, str]]:
    words = table.split()
    return set(zip(words[::2], words[1::2], strict=True))
