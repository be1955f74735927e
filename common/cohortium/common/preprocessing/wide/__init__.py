"""From what a `Table` keeps of wide columns to the numbers of a row; one module for each kind."""
