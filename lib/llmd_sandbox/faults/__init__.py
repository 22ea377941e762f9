"""The one door for breaking things: what the sandbox does wrong on purpose is declared here."""
