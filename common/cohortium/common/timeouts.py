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
NODES_EVERY_S = 1.0  # between looks at who is enrolled and who is online
DEBTS_EVERY_S = 10.0  # between tries of what is owed to ended studies: farewells, reports
TRANSPORT_AGAIN_S = 5.0  # before a study whose transport or disk went away is taken up again
SUPERLINK_SILENT_TIMES = 3  # so often in a row the SuperLink may not answer before it is replaced
JOINS_WINDOW_S = 60.0  # in which few attempts to join are let in: tokens are not to be guessed

# --- a site's training processes
HALT_LOOK_S = 0.1  # how often a running job looks at the kill switch
GONE_S = 5.0  # within which a training process that was killed must be gone
LOCK_S = 30.0  # for a database that another process holds

# --- joining
JOIN_S = 20.0  # for the answer to a token
