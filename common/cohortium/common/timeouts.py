"""How long coordinator and sites wait for what: one set, in seconds, each with its reason.

How long a round and its approvals may take is not here: a study says that ([sites] in study.toml).
Pairs are (at first, at most) where waiting grows. What a person sees refreshed, and how a large
message is spread over connections, is beside its code.
"""

# --- the coordinator asks sites
SITE_AGAIN_S = (1.0, 15.0)  # before asking again who could not be reached, has paused, or failed
MISSING_AGAIN_S = (1.0, 30.0)  # the same once a round's deadline is past and the study waits on
DECISION_AGAIN_S = (0.5, 5.0)  # before inviting a site again whose people have not decided
INVITATION_S = 30.0  # for one invitation: preparing data and noise takes seconds
FAREWELL_S = 5.0  # for the word that a study has ended; who is away is told when it is back

# --- the coordinator's daemon
TICK_S = 0.2  # between looks at what is new: a study, a request to stop one, a dead SuperLink
STOP_LOOK_S = 0.5  # between looks, while a study waits, at whether somebody stopped it
FREEZE_S = 5.0  # within which an incident has every study stopped
NODES_EVERY_S = 1.0  # between looks at who is enrolled and who is online
DEBTS_EVERY_S = 10.0  # between tries of what is owed to ended studies: farewells, reports
TRANSPORT_AGAIN_S = 5.0  # before a study whose transport or disk went away is taken up again
SUPERLINK_SILENT_TIMES = 3  # so often in a row the SuperLink may not answer before it is replaced
JOINS_WINDOW_S = 60.0  # in which few attempts to join are let in: tokens are not to be guessed

# --- the log is witnessed
WITNESS_LOOK_S = 0.5  # between looks at how long the log is
WITNESS_REST_S = (1.0, 10.0)  # the log has not grown for, or has been growing for: sites are asked
WITNESS_EVERY_S = (600.0, 1800.0)  # even if it has not grown: while a study runs, and otherwise
WITNESS_S = 15.0  # for one answer: a few milliseconds of work, and a poll
WITNESS_AGAIN_S = (30.0, 3600.0)  # before asking again who did not answer, or not as it should
WITNESS_LANES = 4  # sites that are asked at the same time
DOUBT_EVERY_S = 3600.0  # between two records of the same wrong answer of a site
PROVEN_WITHIN_S = 3600.0  # in which a site wants to see its events in the log

# --- messages through the SuperLink, at the coordinator
REPLY_POLL_S = (0.05, 0.5)  # between looks for replies: at first, at most
WATCH_S = 2.0  # between looks at which sites have gone or come back
RESEND_S = 30.0  # of silence until a message is sent again, then twice that and so on
ASKER_TURN_S = 2.0  # after a reply or failure, until the asker may ask again who failed
LATE_S = 10.0  # a message lives that much longer than its answer is waited for
STALLED_S = 300.0  # a reply that was announced so long ago may have been given up
RUN_HEARTBEAT_S = 10.0  # Flower fails a run that shows no sign of life for about a minute
CLAIM_S = 20.0  # for a new run to be offered
CLAIM_POLL_S = 0.05  # between looks for that
BLIP_S = 2.0  # a call that fails for longer is reported; it is repeated until its deadline
AWAY_S = 0.5  # between calls while the SuperLink is away
SUPERLINK_START_S = 60.0  # until it serves all three ports
SUPERLINK_STOP_S = 5.0  # for a clean end, before it is killed
SUPERLINK_CALL_S = 10.0  # for one call to its control interface
UPLOAD_PAUSE_S = 12 * 3600.0  # in which an upload that was cut off may go on

# --- messages through the SuperLink, at a site
NODE_POLL_S = (0.1, 1.0)  # between looks for requests: right after one, when long idle
HEARTBEAT_S = 10.0  # the least that Flower allows; a silent node is dead after twice that
ACTIVATION_S = 2 * HEARTBEAT_S + 5.0  # the coordinator may take a killed predecessor for us
REACTIVATION_S = 10.0  # a coordinator that was started again lets its sites in anew
RECONNECT_S = (0.2, 5.0)  # between tries to reach a coordinator that does not answer
FLEET_CALL_S = 5.0  # for a small call
PULL_S = 8.0  # a message is delivered once: an answer that comes too late is lost
CHUNK_S = (60.0, 90.0, 960.0)  # for 1 MiB: at least, at first, after having been too short
ANNOUNCED_S = 60.0  # for a chunk that was announced; a coordinator that died never uploads it
ANNOUNCED_AGAIN_S = (0.05, 2.0)  # between looks for it
LINGER_S = 20.0  # a reply that nobody takes now is kept so long: the request may come again

# --- a site's training processes
HALT_LOOK_S = 0.1  # how often a running job looks at the kill switch
GONE_S = 5.0  # within which a training process that was killed must be gone
LOCK_S = 30.0  # for a database that another process holds

# --- joining
JOIN_S = 20.0  # for the answer to a token

# --- the stream of events to a SIEM
SIEM_POLL_S = 0.5  # between looks at the log for what is new
SIEM_AGAIN_S = (1.0, 60.0)  # before a receiver that failed is tried again
SIEM_CONNECT_S = 5.0  # for one address to answer
SIEM_SEND_S = 10.0  # for a batch of lines to be taken
SIEM_CLOSE_S = 5.0  # for the receiver to answer the end of a connection
SIEM_CONFIRM_S = 60.0  # after which a connection is ended, to know that its lines were read
SIEM_STOP_S = 1.5  # for an orderly end when the daemon ends
SIEM_ABORT_S = 0.4  # for the thread to notice that its connection was dropped
