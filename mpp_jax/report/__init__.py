"""What a run leaves behind: ``metrics.json`` for programs and ``report.html`` for people."""
