@echo off
rem Sets up what is not there yet, and starts: start.bat --help
rem Not run yet, neither this file nor what it starts on Windows: it was written and read on Linux.
setlocal EnableExtensions DisableDelayedExpansion
set "PYTHON_MANAGER_AUTOMATIC_INSTALL=false"
set "fits=import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32))"
set "python="
call python -c "%fits%" >nul 2>nul && set "python=python"
for %%v in (3.13 3.12 3.14 3.11) do if not defined python py -%%v -c "%fits%" >nul 2>nul && set "python=py -%%v"
if not defined python goto none
%python% "%~dp0tools\launch.py" %*
set "code=%errorlevel%"
goto end

:none
echo error: No Python 3.11 to 3.14 (64 bits) was found. 1>&2
echo   Install one from https://www.python.org/downloads and start again. 1>&2
set "code=2"

:end
rem Whoever has clicked on it still wants to read what it says.
if "%~1"=="" if not "%code%"=="0" pause
if "%~1"=="--install" pause
exit /b %code%
