// SPDX-License-Identifier: Apache-2.0

// Command runtime plays the container runtime on a node of a site: it calls CNI
// plugins through libcni, as containerd does.
//
//	runtime add|del|check CONF CONTAINER NETNS INTERFACE
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
)

const (
	binDir   = "/opt/cni/bin"
	cacheDir = "/var/lib/cni"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: runtime add|del|check CONF CONTAINER NETNS INTERFACE")
		return 2
	}
	if err := call(args[0], args[1], &libcni.RuntimeConf{
		ContainerID: args[2], NetNS: args[3], IfName: args[4],
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", args[2]}},
	}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// call calls one verb of a configuration list.
func call(verb, conf string, rt *libcni.RuntimeConf) error {
	list, err := libcni.ConfListFromFile(conf)
	if err != nil {
		return err
	}
	cni, ctx := libcni.NewCNIConfigWithCacheDir([]string{binDir}, cacheDir, nil), context.Background()
	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(result)
	case "del":
		return cni.DelNetworkList(ctx, list, rt)
	case "check":
		return cni.CheckNetworkList(ctx, list, rt)
	}
	return fmt.Errorf("verb %q is not add, del or check", verb)
}
