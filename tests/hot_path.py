"""The functions that a message, an idle connection and a newcomer pass through, by file.

engine/test_hot_path.py reads in Cython's annotation what they have of Python; test_instructions.py has callgrind say
which ones an echo really runs, and wants them all to be here.
"""

# What an echo, a tick and a handshake that asks nobody run.
NO_PYTHON = {
    "accept.pyx": "accept_batch _take_in",
    "clock.pxd": "clock_us clock_ms",
    "deliver.pyx": "deliver_begin deliver_done deliver_held deliver_look deliver_next_note",
    "deflate.pyx": "deflate_negotiate",
    "flush.pxd": "conn_flush_all",
    "frame.pxd": "frame_check frame_head",
    "frame.pyx": "frame_decode",
    "handshake.pyx": "conn_request _accept",
    "http.pyx": "http_is_all http_check_authority",
    "flush.pyx": "conn_dirty conn_flush flush_enlisted",
    "life.pyx": "conn_begin conn_upgraded",
    "lock.pxd": "conn_unlock",
    "loop.pyx": "loop_turn loop_next_ms _conn_event _wait_ms _expire",
    "mask.pxd": "mask_key mask_apply mask_copy",
    "messages.pxd": "event_goes_on",
    "outq.pyx": "outq_put outq_put_frame outq_room outq_flush",
    "poller.pyx": "poller_wait poller_add",
    "post.pxd": "post_flooded post_near post_nudge",
    "post.pyx": "post_event post_call post_pop_ready post_pop_apart",
    "proto.pyx": "proto_feed",
    "read.pyx": "conn_read",
    "response.pyx": "response_accept",
    "role.pyx": "role_work",
    "send.pyx": "send_frame send_leave",
    "slab.pyx": "block_take slab_take slab_give slab_grow",
    "slot.pxd": "conn_at conn_index conn_takes conn_held side_count tick_now",
    "slot.pyx": "conn_side conn_trim side_give_request",
    "slow.pyx": "slow_leave",
    "sock.pyx": "sock_accept _recv _send _sendv",
    "tend.pyx": "conn_timer conn_tended _look",
    "traffic.pyx": "conn_frames",
    "upgrade.pyx": "upgrade_init upgrade_parse _judge_tokens",
    "utf8.pyx": "utf8_feed",
    "wheel.pyx": "wheel_next wheel_expire wheel_set wheel_cancel",
}

# Where Python comes in: how many lines may touch it, those aside that only raise, and how many points Cython's
# annotation gives them together: 5 for a call into Python, 2 for one of Cython's helpers, 1 for a macro.
SCORED_BY = "3.3"
PYTHON = {
    "conn.pyx": {
        "Conn.__dealloc__": (2, 4),
        "Conn.send": (3, 61),
        "conn_make": (2, 6),
        "conn_new": (3, 9),
        "conn_write": (6, 12),
        "_write": (1, 11),
        "_write_buffer": (5, 41),
    },
    "conn.pxd": {"conn_runs_here": (0, 0)},
    "core.pyx": {"Loop.run": (8, 126), "Loop._staff": (1, 2)},
    "dispatch.pyx": {
        "Dispatch._deliver": (9, 39),
        "Dispatch._callbacks": (20, 151),
        "Dispatch._hook_for": (10, 30),
    },
    "lock.pxd": {"conn_lock": (1, 14)},
    "messages.pxd": {"event_payload": (2, 9), "event_text": (2, 4)},
    "messages.pyx": {
        "read_client_data": (3, 56),
        "_check_reader": (1, 4),
        "_next_message": (1, 2),
        "_whole": (7, 26),
        "write_server_message": (10, 123),
        "write_server_text": (2, 46),
        "write_server_binary": (2, 43),
    },
    "write.pxd": {"write_io_timeout": (0, 0)},
    "write.pyx": {"write_message": (4, 56)},
}
