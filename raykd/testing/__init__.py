"""What tests and scenarios of faults share, and third parties may use: made-up targets, damage, hostile files."""
