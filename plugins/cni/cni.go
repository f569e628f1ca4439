// SPDX-License-Identifier: Apache-2.0

// Package cni is the program around a plugin's verbs: it reads what the runtime
// passes in the environment and on standard input, calls the verb, and prints
// the error that it returns, as the CNI specification has it. The library's own
// does the same and links regular expressions and a log into a binary that starts
// for each pod, which takes longer than the whole of this.
//
//	cni.Main(cni.Verbs{Add: add, Del: del, Check: check, Status: status, GC: gc}, "example: does nothing")
package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// Args is one call.
type Args struct {
	ContainerID string
	Netns       string
	IfName      string
	Args        string // CNI_ARGS
	Path        string // CNI_PATH
	StdinData   []byte // the configuration
}

// Verbs are a plugin's.
type Verbs struct {
	Add, Del, Check, GC, Status func(*Args) error
}

// versions are those of the specification that the plugins follow, oldest first.
func versions() []string { return []string{"0.4.0", "1.0.0", "1.1.0"} }

// verb is what one asks of its caller.
type verb struct {
	call      func(*Args) error
	container bool   // it is about a container and an interface
	netns     bool   // whose namespace must be named
	since     string // the first version that has it
}

func (v Verbs) table() map[string]verb {
	return map[string]verb{
		"ADD":    {call: v.Add, container: true, netns: true, since: "0.4.0"},
		"DEL":    {call: v.Del, container: true, since: "0.4.0"},
		"CHECK":  {call: v.Check, container: true, netns: true, since: "0.4.0"},
		"GC":     {call: v.GC, since: "1.1.0"},
		"STATUS": {call: v.Status, since: "1.1.0"},
	}
}

// Main is a plugin's program. It ends it, after an error with status 1.
func Main(v Verbs, about string) {
	debug.SetGCPercent(-1) // it ends before there is much to collect
	err := Run(v, about, os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	if err == nil {
		os.Exit(0)
	}
	if err := err.Print(); err != nil {
		fmt.Fprintln(os.Stderr, "print error:", err)
	}
	os.Exit(1)
}

// Run is Main with the world given. The verbs print their result themselves.
func Run(v Verbs, about string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) *types.Error {
	command := getenv("CNI_COMMAND")
	switch command {
	case "":
		fmt.Fprintf(stderr, "%s\nCNI protocol versions supported: %s\n", about, strings.Join(versions(), ", "))
		return nil
	case "VERSION":
		return printVersions(stdout)
	}
	what, ok := v.table()[command]
	if !ok {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND: %s", command), "")
	}
	args, err := what.args(getenv)
	if err != nil {
		return err
	}
	data, errRead := io.ReadAll(stdin)
	if errRead != nil {
		return types.NewError(types.ErrIOFailure, "read configuration", errRead.Error())
	}
	args.StdinData = data
	if err := what.checkConf(command, data); err != nil {
		return err
	}
	if what.call == nil {
		return nil
	}
	return typed(what.call(args))
}

// typed gives an error without a code that of an internal one.
func typed(err error) *types.Error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*types.Error](err); ok {
		return known
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}

func printVersions(stdout io.Writer) *types.Error {
	all := versions()
	text, err := json.Marshal(struct {
		Version   string   `json:"cniVersion"`
		Supported []string `json:"supportedVersions"`
	}{all[len(all)-1], all})
	if err == nil {
		_, err = stdout.Write(append(text, '\n'))
	}
	if err != nil {
		return types.NewError(types.ErrIOFailure, "print versions", err.Error())
	}
	return nil
}

// args reads the environment.
func (v verb) args(getenv func(string) string) (*Args, *types.Error) {
	args := &Args{
		ContainerID: getenv("CNI_CONTAINERID"), Netns: getenv("CNI_NETNS"), IfName: getenv("CNI_IFNAME"),
		Args: getenv("CNI_ARGS"), Path: getenv("CNI_PATH"),
	}
	var missing []string
	for _, need := range []struct {
		name, value string
		must        bool
	}{
		{"CNI_CONTAINERID", args.ContainerID, v.container}, {"CNI_NETNS", args.Netns, v.netns},
		{"CNI_IFNAME", args.IfName, v.container}, {"CNI_PATH", args.Path, true},
	} {
		if need.must && need.value == "" {
			missing = append(missing, need.name)
		}
	}
	switch {
	case len(missing) > 0:
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("required env variables [%s] missing", strings.Join(missing, ",")), "")
	case v.container && !isName(args.ContainerID):
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "invalid characters in containerID", args.ContainerID)
	case v.container && !isInterface(args.IfName):
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "not an interface's name", args.IfName)
	}
	return args, nil
}

// checkConf checks what every configuration must have.
func (v verb) checkConf(command string, data []byte) *types.Error {
	var conf struct {
		Version string `json:"cniVersion"`
		Name    string `json:"name"`
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
	}
	switch {
	case conf.Name == "":
		return types.NewError(types.ErrInvalidNetworkConfig, "missing network name", "")
	case !isName(conf.Name):
		return types.NewError(types.ErrInvalidNetworkConfig, "invalid characters found in network name", conf.Name)
	case !slices.Contains(versions(), conf.Version):
		return types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", fmt.Sprintf("config is %q, plugin supports %q", conf.Version, versions()))
	case slices.Index(versions(), conf.Version) < slices.Index(versions(), v.since):
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("config version does not allow %s", command), conf.Version)
	}
	return nil
}

// isName tells whether a container or a network may be called so.
func isName(s string) bool {
	for i, c := range []byte(s) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || !strings.ContainsRune("_.-", rune(c))) {
			return false
		}
	}
	return s != ""
}

// isInterface tells whether the kernel would take a name for an interface's.
func isInterface(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r\u0085\u00a0")
}
