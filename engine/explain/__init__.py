"""Looking at units and pictures: one function per question."""
