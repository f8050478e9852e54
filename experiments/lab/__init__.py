"""What the experiments share: command line, judges, variants, tables and figures."""
