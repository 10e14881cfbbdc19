"""The method end to end; read `pipeline` first."""
