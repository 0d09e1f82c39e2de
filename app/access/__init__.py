"""Who may do what: API keys, the guard in front of every route, the console's sessions, the log of admin acts."""
