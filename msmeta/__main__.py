from msmeta.cli import main

main()
